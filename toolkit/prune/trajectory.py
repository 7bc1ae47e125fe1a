"""The trajectory distance between a dense model and a changed one, and its exact value for every masked unit.

From OPTIN (Khaki and Plataniotis, "The need for speed: pruning transformers with one recipe", ICLR 2024). Two terms:

    distance    sum over blocks of |F F^T - F' F'^T|^2, with the rows of F [K, width] being K tokens of all images
                after a block, each divided by its length (manifold distillation, Hao et al., 2022)
    divergence  T^2 KL(dense || changed) of the logits at temperature T, mean over images

Only blocks after the one that contains the unit count: its own output says nothing about what follows. The last block
has none, so its own output counts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.models.block import block_of, blocks_of
from toolkit.models.gates import read_slices
from toolkit.models.groups import Group, Groups, Scores
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.progress import Progress, silent

Classifier: TypeAlias = Callable[[Tensor], Tensor]
"""Tokens after the last block [images, tokens, width] -> logits [images, classes]."""
STACKED_IMAGES = 64
"""Masks are evaluated together in batches of at least this many images."""


@dataclass(frozen=True)
class Comparison:
    """What is compared: K tokens, drawn once for all blocks with the same number of tokens, and softened logits."""

    tokens: int = 768
    temperature: float = 4.0
    seed: int = 0

    def positions(self, images: int, tokens: int) -> Tensor:
        """[K] int64: the compared tokens of `images` images with `tokens` tokens each; all if there are fewer."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(images * tokens, generator=generator)[: self.tokens]

    def features(self, tokens: Tensor, stacked: int = 1) -> Tensor:
        """F for each of `stacked` copies of the images: [stacked * images, tokens, width] -> [stacked, K, width]"""
        copies = tokens.unflatten(0, (stacked, -1))  # [stacked, images, tokens, width]
        chosen = self.positions(copies.shape[1], copies.shape[2])
        return F.normalize(copies.flatten(1, 2)[:, chosen], dim=-1)

    def divergence(self, dense: Tensor, changed: Tensor) -> Tensor:
        """[stacked] float64, from the logits [images, classes] and [stacked, images, classes]."""
        expected = F.log_softmax(dense.double() / self.temperature, dim=-1)
        actual = F.log_softmax(changed.double() / self.temperature, dim=-1)
        return self.temperature**2 * (expected.exp() * (expected - actual)).sum(dim=-1).mean(dim=-1)


@dataclass(frozen=True)
class Trajectory:
    """What the dense model computes for the calibration images."""

    comparison: Comparison
    inputs: tuple[Tensor, ...]
    """[images, tokens, width]: input of each block."""
    sizes: tuple[Tensor | None, ...]
    """[images, tokens] or None: sizes of these tokens."""
    outputs: tuple[Tensor, ...]
    """[images, tokens, width]: output of each block."""
    logits: Tensor
    """[images, classes]"""


@dataclass(frozen=True)
class Terms:
    """Both terms of the score of every unit."""

    distances: Scores
    divergences: Scores

    def factor(self, balance: float) -> float:
        """Factor of the divergences for which the sum of all distances is `balance` times that of the divergences."""
        distances, divergences = (sum(float(x.sum()) for x in of.values()) for of in (self.distances, self.divergences))
        return distances / (balance * divergences) if divergences > 0 else 0.0

    def scores(self, factor: float) -> Scores:
        """distance + factor * divergence of every unit."""
        return {key: values + factor * self.divergences[key] for key, values in self.distances.items()}


def distance(dense: Tensor, changed: Tensor) -> Tensor:
    """|F F^T - F' F'^T|^2 in float64: F [K, width] and F' [stacked, K, width] -> [stacked]

    The difference of the Gram matrices is computed from that of the features, which loses no digits to cancellation.
    """
    change = changed - dense
    across = change @ dense.T  # [stacked, K, K]
    return (across + across.mT + change @ change.mT).square().sum(dim=(1, 2), dtype=torch.float64)


def exact_terms(
    model: Model, groups: Groups, images: Tensor, comparison: Comparison, progress: Progress = silent
) -> Terms:
    """Both terms for every unit of `groups` (along head and mlp): each unit is masked by itself.

    images: [images, 3, S, S]. Computes the blocks from the one that contains the unit on.
    """
    terms = Terms({}, {})
    done, total = 0, sum(group.units for group in groups)
    with evaluating(model.module):
        masking = Masking(model, recorded(model.module, images, comparison), classifier_of(model.module, images))
        at_once = max(1, STACKED_IMAGES // len(images))
        for group in groups:
            parts = []
            for units in torch.arange(group.units).split(at_once):
                progress(done, total)
                parts.append(masking.terms(group, units))
                done += len(units)
            pairs = zip(*parts, strict=True)
            terms.distances[group.key], terms.divergences[group.key] = (torch.cat(term) for term in pairs)
    progress(total, total)
    return terms


@dataclass(frozen=True)
class Masking:
    """A model in evaluation mode, of which units are masked one at a time."""

    model: Model
    trajectory: Trajectory
    classify: Classifier

    @torch.inference_mode()
    def terms(self, group: Group, units: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and divergences with each of these units masked, [units] float64 both."""
        blocks = [block for _, block in self.model.blocks]
        images, start = len(self.trajectory.logits), index_of(group, self.model)
        gate = torch.ones(len(units), group.units)
        gate[torch.arange(len(units)), units] = 0.0
        x, sizes = self.trajectory.inputs[start], self.trajectory.sizes[start]
        x = x.repeat(len(units), 1, 1)
        sizes = None if sizes is None else sizes.repeat(len(units), 1)
        total = torch.zeros(len(units), dtype=torch.float64)
        with ExitStack() as stack:
            attach_gate(self.model.module, group, gate.repeat_interleave(images, dim=0), stack)
            x, sizes = blocks[start](x, sizes)
        for index in range(start + 1, len(blocks)):
            x, sizes = blocks[index](x, sizes)
            total += self._distance(index, x, len(units))
        if start + 1 == len(blocks):
            total += self._distance(start, x, len(units))
        logits = self.classify(x).unflatten(0, (len(units), images))
        return total, self.trajectory.comparison.divergence(self.trajectory.logits, logits)

    def _distance(self, index: int, tokens: Tensor, stacked: int) -> Tensor:
        comparison = self.trajectory.comparison
        (dense,) = comparison.features(self.trajectory.outputs[index])
        return distance(dense, comparison.features(tokens, stacked))


def attach_gate(module: nn.Module, group: Group, gate: Tensor, stack: ExitStack) -> None:
    """Multiply a group's units by a gate [images, units] of each image, until the stack is closed.

    The gate acts on the inputs of the layers that read the units.
    """
    for piece in read_slices(module, group):
        layer = module.get_submodule(piece.parameter.rpartition(".")[0])
        assert isinstance(layer, nn.Linear)
        columns = gate.new_ones(len(gate), layer.in_features)
        columns = columns.index_copy(1, piece.positions, gate[:, piece.units])[:, None]  # [images, 1, columns]
        stack.callback(layer.register_forward_pre_hook(_times(columns)).remove)


def _times(factors: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    return lambda _, inputs: (inputs[0] * factors,)


def index_of(group: Group, model: Model) -> int:
    """Index of the block that contains a group's units."""
    index = block_of(group.place, model.groups.blocks)
    assert index is not None
    return index


def classifier_of(module: nn.Module, images: Tensor) -> Classifier:
    """What a model does with the tokens after its last block, as a function of these tokens.

    A call runs the module on copies of the first image, with the given tokens in place of its blocks.
    """
    blocks = blocks_of(module)
    name = next(name for name, part in module.named_modules() if part is blocks)

    def classify(tokens: Tensor) -> Tensor:
        module.set_submodule(name, _Given(tokens))
        try:
            logits: Tensor = module(images[:1].expand(len(tokens), -1, -1, -1))
        finally:
            module.set_submodule(name, blocks)
        return logits

    return classify


class _Given(nn.Module):
    """Tokens in place of blocks."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self._tokens = tokens

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        return self._tokens


@torch.no_grad()
def recorded(module: nn.Module, images: Tensor, comparison: Comparison) -> Trajectory:
    """The trajectory of a model in evaluation mode for images [images, 3, S, S]."""
    calls: list[tuple[Tensor, Tensor | None, Tensor]] = []

    def record(_: nn.Module, inputs: tuple[Tensor, Tensor | None], output: tuple[Tensor, Tensor | None]) -> None:
        calls.append((*inputs, output[0]))

    hooks = [block.register_forward_hook(record) for block in blocks_of(module)]
    try:
        logits = module(images)
    finally:
        for hook in hooks:
            hook.remove()
    inputs, sizes, outputs = zip(*calls, strict=True)
    return Trajectory(comparison, inputs, sizes, outputs, logits)
