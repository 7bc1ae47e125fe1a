"""Tokens of a model recorded while it runs: before its blocks, and after chosen ones with their merges."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from toolkit.models.block import HeadwiseBlock, blocks_of
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


class _Unchanged(nn.Module):
    """Keeps the tokens that it gets in place of blocks."""

    tokens: Tensor

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        self.tokens = x
        return x


def tokens_before_blocks(module: nn.Module, images: Tensor) -> Tensor:
    """Input of the first block for images [batch, 3, S, S]: [batch, tokens, width]"""
    blocks, instead = blocks_of(module), _Unchanged()
    name = next(name for name, part in module.named_modules() if part is blocks)
    module.set_submodule(name, instead)
    try:
        module(images)
    finally:
        module.set_submodule(name, blocks)
    return instead.tokens
