"""Sequential repair: the layers that write to the residual stream are fitted to the dense model's stream, in order.

`ridge` and `obs` repair a layer for the inputs that it has in the dense model. In the slim model its inputs are
different: layers before it have errors, and tokens are merged. Here, after `obs`, every output projection of attention
and second layer of an MLP is changed once more, from the first to the last, each for its inputs in the slim model with
all changes before:

    dW, db = argmin E|dW x + db - e|^2 + lam |dW|^2

with e the dense model's tokens, merged by the slim model's matrices, less the slim model's own. Tokens count by their
size, and more if the classifier reads them. Fitting compressed inputs to what was not compressed is the asymmetric
calibration of GPTAQ (Li et al., 2025), for the output of each layer; the target here is the whole stream, so that a
layer also makes up for the errors of others. Blocks whose norms come after attention and MLP keep the weights of `obs`.

The tokens of all calibration images at one block are in memory, of both models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Annotated, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit.models.block import HeadwiseBlock, named_blocks
from toolkit.models.groups import RESIDUAL
from toolkit.models.merge import Merging
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.models.recording import blocks_by_source, tokens_before_blocks
from toolkit.models.surgery import Removal
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import Compensation
from toolkit.prune.compensate.obs import Obs
from toolkit.prune.covariances import check_finite, check_images
from toolkit.prune.error_moments import ErrorMoments, mixed
from toolkit.section import Section

CLASSIFIER_SHARE = 0.3
"""Weight of all tokens that the classifier reads, relative to that of all others."""


class Settings(Section):
    damping: Annotated[float, Field(gt=0)] = 2.0
    """Damping of the weights' change, as a multiple of the mean variance of a layer's inputs."""


@dataclass(frozen=True)
class Stream:
    """Tokens of a batch of images in both models, somewhere between their first and last layer."""

    domain: str
    dense: Tensor
    """[batch, tokens, channels of the dense model]"""
    slim: Tensor
    """[batch, tokens that are left, channels]"""
    sizes: Tensor | None = None
    """[batch, tokens that are left]"""
    mergings: tuple[Merging, ...] = ()
    """How the slim model merged them."""

    def errors(self, channels: Tensor) -> Tensor:
        """[batch, tokens that are left, channels]: the dense model's tokens, merged, less the slim model's.

        channels: which of the dense model's the slim model has.
        """
        target = reduce(lambda tokens, merging: merging.apply(tokens), self.mergings, self.dense)
        return target[:, : self.slim.shape[1], channels] - self.slim

    def weights(self, first: int) -> Tensor:
        """[batch, tokens that are left]: sizes; of the `first` tokens, which the classifier reads, more."""
        sizes = self.slim.new_ones(self.slim.shape[:2]) if self.sizes is None else self.sizes
        if not 0 < first < sizes.shape[1]:
            return sizes
        others = sizes[:, first:]
        own = CLASSIFIER_SHARE / first * others.sum(dim=1, keepdim=True).expand(-1, first)
        return torch.cat([own, others], dim=1)


Half: TypeAlias = Callable[[Stream], Stream]
"""Half of a block of the slim model: attention, or MLP."""


@dataclass(frozen=True)
class Sequential:
    """Weights and biases of `proj` and `fc2`, block by block."""

    settings: Settings = Settings()

    def repair(self, before: Model, removal: Removal, calibration: Calibration) -> Model:
        slim, dense = Obs().repair(before, removal, replace(calibration, aggregate="mean")), before.copied()
        for block in named_blocks(dense.module).values():
            block.merge = block.attn.num_queries = None
        channels, slim_blocks = torch.tensor(removal.origin[RESIDUAL][1]), blocks_by_source(slim)
        with evaluating(dense.module), evaluating(slim.module), torch.no_grad():
            streams = [*_first_streams(dense.module, slim.module, calibration)]
            check_images(sum(len(stream.slim) for stream in streams))
            for index, block in blocks_by_source(dense).items():
                own = slim_blocks.get(index)
                fit = Fit(index, own, channels, slim.parts.classifier_tokens or 0, self.settings.damping)
                streams = fit.attention(
                    [replace(each, dense=block.after_attention(each.dense).tokens) for each in streams]
                )
                streams = fit.mlp([replace(each, dense=each.dense + block.mlp_branch(each.dense)) for each in streams])
        return slim


def _first_streams(dense: nn.Module, slim: nn.Module, calibration: Calibration) -> Iterator[Stream]:
    """The tokens before the first block, batch by batch."""
    for domain in calibration.domains:
        for batch in calibration.of(domain):
            dense_tokens, slim_tokens = (tokens_before_blocks(module, batch.images) for module in (dense, slim))
            yield Stream(domain, dense_tokens, slim_tokens)


@dataclass(frozen=True)
class Fit:
    """Fits a block of the slim model; None: it was removed."""

    index: int
    """In the source architecture."""
    block: HeadwiseBlock | None
    channels: Tensor
    """Of the dense model, those that the slim model has."""
    classifier_tokens: int
    """Number of first tokens that the classifier reads; 0: all."""
    damping: float

    def attention(self, streams: list[Stream]) -> list[Stream]:
        """The streams after attention and merging; those of the dense model are there already."""
        if (block := self.block) is None:
            return streams

        def half(stream: Stream) -> Stream:
            tokens, sizes, merging = block.after_attention(stream.slim, stream.sizes)
            mergings = stream.mergings if merging is None else (*stream.mergings, merging)
            return replace(stream, slim=tokens, sizes=sizes, mergings=mergings)

        return self._fitted(block, block.attn.proj, block.ls1, half, streams)

    def mlp(self, streams: list[Stream]) -> list[Stream]:
        """The streams after the MLP; those of the dense model are there already."""
        if (block := self.block) is None:
            return streams

        def half(stream: Stream) -> Stream:
            return replace(stream, slim=stream.slim + block.mlp_branch(stream.slim))

        return self._fitted(block, block.mlp_output, block.ls2, half, streams)

    def _fitted(
        self, block: HeadwiseBlock, layer: nn.Linear, scale: nn.Module, half: Half, streams: list[Stream]
    ) -> list[Stream]:
        """The streams after half of a block, whose last layer is fitted."""
        if block.norm_first:
            found: dict[str, ErrorMoments] = {}
            for stream in streams:
                moments = self._moments(layer, scale, half, stream)
                found[stream.domain] = found[stream.domain] + moments if stream.domain in found else moments
            total = mixed([*found.values()])
            check_finite(total.products, f"block {self.index} of the pruned model")
            change, shift = total.correction(self.damping, layer.bias is not None)
            layer.weight.add_(change.to(layer.weight))
            if layer.bias is not None:
                layer.bias.add_(shift.to(layer.bias))
        return [half(stream) for stream in streams]

    def _moments(self, layer: nn.Linear, scale: nn.Module, half: Half, stream: Stream) -> ErrorMoments:
        """Inputs of the layer, merged as its outputs, and errors of the stream in units of its outputs."""
        received: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
        try:
            after = half(stream)
        finally:
            hook.remove()
        (x,) = received
        for merging in after.mergings[len(stream.mergings) :]:
            x = merging.apply(x)
        errors = after.errors(self.channels)
        if (gain := getattr(scale, "gamma", None)) is not None:
            errors = errors / torch.where(gain == 0, torch.inf, gain)  # a channel of scale 0 corrects nothing
        return ErrorMoments.of(x, errors, after.weights(self.classifier_tokens))


PLUGIN: Compensation = Sequential()
