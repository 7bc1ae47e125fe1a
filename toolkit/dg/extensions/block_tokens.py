"""Tokens after chosen blocks of a model, recorded while it runs, and a teacher's tokens merged as a student's were."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, mse_loss

from toolkit.models.block import HeadwiseBlock
from toolkit.models.merge import Merging
from toolkit.models.model import Model
from toolkit.models.tokens import block_indices


@dataclass
class Recorded:
    """What the last forward pass of a model left behind, by the block's index in the source architecture."""

    tokens: dict[int, Tensor] = field(default_factory=dict)
    """[batch, tokens, width] after a block."""
    mergings: dict[int, Merging] = field(default_factory=dict)
    """How a block merged tokens."""

    def merge(self, tokens: Tensor, block: int) -> Tensor:
        """Another model's tokens after `block` [batch, tokens, width], merged as in this model up to that block."""
        for place, merging in sorted(self.mergings.items()):
            if place <= block:
                tokens = merging.apply(tokens)
        return tokens


def blocks_by_source(model: Model) -> dict[int, HeadwiseBlock]:
    """Blocks by their index in the source architecture, in order."""
    blocks = [block for _, block in model.blocks]
    return dict(zip(block_indices(model.info) if blocks else (), blocks, strict=True))


@contextmanager
def recording(model: Model, blocks: Collection[int]) -> Iterator[Recorded]:
    """Record the tokens after these blocks, and all merges, of every forward pass inside the context."""
    recorded = Recorded()

    def keep_tokens(index: int, block: HeadwiseBlock) -> None:
        def hook(module: nn.Module, inputs: object, output: tuple[Tensor, Tensor | None]) -> None:
            recorded.tokens[index] = output[0]

        stack.callback(block.register_forward_hook(hook).remove)

    def keep_merging(index: int, merge: nn.Module) -> None:
        def hook(module: nn.Module, inputs: object, output: Merging) -> None:
            recorded.mergings[index] = output

        stack.callback(merge.register_forward_hook(hook).remove)

    with ExitStack() as stack:
        for index, block in blocks_by_source(model).items():
            if index in blocks:
                keep_tokens(index, block)
            if block.merge is not None:
                keep_merging(index, block.merge)
        yield recorded


def normalised(tokens: Tensor) -> Tensor:
    """Tokens [..., width] after a layer norm without gain and bias, in float32."""
    return layer_norm(tokens.float(), tokens.shape[-1:])


def difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of normalised tokens [batch, tokens, width]; those of the teacher are normalised already."""
    return mse_loss(normalised(student), teacher)


@torch.no_grad()
def probe(model: Model, blocks: Collection[int]) -> Recorded:
    """Tokens and merges of a blank image; the model's mode is kept."""
    training = model.module.training
    device = next(model.module.parameters()).device
    with recording(model, blocks) as recorded:
        model.module.eval()(torch.zeros(1, 3, model.info.image_size, model.info.image_size, device=device))
    model.module.train(training)
    return recorded
