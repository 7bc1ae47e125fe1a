"""The canonical transformer block, and the sequence of a model's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from toolkit.models.attention import HeadwiseAttention
from toolkit.models.merge import Merging, TokenMerge


class AfterAttention(NamedTuple):
    """Tokens of a block between attention and MLP."""

    tokens: Tensor
    """[batch, tokens, width]"""
    sizes: Tensor | None
    """[batch, tokens]"""
    merging: Merging | None
    """How they were merged, if they were."""


class HeadwiseBlock(nn.Module):
    """Attention and MLP, each in a residual branch: x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x))).

    With `norm_first=False`, norms come after attention and MLP instead: x + ls1(norm1(attn(x))). `ls1` and `ls2` scale
    the branches by channel, or are identities. Submodules have timm's names.

    Two things reduce the number of tokens between attention and MLP: `merge`, if it is set, merges similar tokens; with
    `attn.num_queries`, only the first tokens are computed at all.
    """

    attn: HeadwiseAttention
    merge: TokenMerge | None

    def __init__(
        self,
        attn: HeadwiseAttention,
        mlp: nn.Module,
        norms: Sequence[nn.Module],
        scales: Sequence[nn.Module],
        drop_paths: Sequence[nn.Module],
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.norm1, self.attn, self.ls1, self.drop_path1 = norms[0], attn, scales[0], drop_paths[0]
        self.norm2, self.mlp, self.ls2, self.drop_path2 = norms[1], mlp, scales[1], drop_paths[1]
        self.register_module("merge", None)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x [batch, tokens, width] and sizes [batch, tokens] -> the same, of the tokens that are left.

        sizes is the number of source tokens merged into each token: attention weights are proportional to it (Bolya et
        al., "Token merging", 2023). None: no tokens were merged.
        """
        x, sizes, _ = self.after_attention(x, sizes)
        return x + self.mlp_branch(x), sizes

    def after_attention(self, x: Tensor, sizes: Tensor | None = None) -> AfterAttention:
        """The first half of `forward`: what the MLP gets."""
        attended = self.norm1(x) if self.norm_first else x
        mixed = self.attention_branch(attended, sizes)
        if (count := self.attn.num_queries) is not None:
            x, sizes = x[:, :count], None if sizes is None else sizes[:, :count]
        x = x + mixed
        if self.merge is None:
            return AfterAttention(x, sizes, None)
        merging = self.merge(attended, self.attn.class_attention(attended), sizes)
        return AfterAttention(merging.apply(x), merging.sizes, merging)

    def attention_branch(self, attended: Tensor, sizes: Tensor | None) -> Tensor:
        """Contribution of attention, whose input is `attended` [batch, tokens, width]: [batch, query tokens, width]"""
        mixed = self.attn(attended, None if sizes is None else sizes.log())
        branch: Tensor = self.drop_path1(self.ls1(mixed if self.norm_first else self.norm1(mixed)))
        return branch

    def mlp_branch(self, x: Tensor) -> Tensor:
        """Contribution of the MLP to x: [batch, tokens, width]"""
        hidden = self.mlp(self.norm2(x)) if self.norm_first else self.norm2(self.mlp(x))
        branch: Tensor = self.drop_path2(self.ls2(hidden))
        return branch

    @property
    def mlp_inputs(self) -> tuple[nn.Linear, ...]:
        """The MLP's first layer, whose outputs are the hidden units; a gated MLP multiplies the outputs of two."""
        names = ("fc1_g", "fc1_x") if hasattr(self.mlp, "fc1_g") else ("fc1",)
        return tuple(_linear(self.mlp.get_submodule(name)) for name in names)

    @property
    def mlp_output(self) -> nn.Linear:
        """The MLP's last layer: its inputs are the hidden units."""
        return _linear(self.mlp.get_submodule("fc2"))


class Blocks(nn.ModuleList):
    """A sequence of blocks, which pass on tokens and their sizes."""

    checkpointing = False
    """Recompute each block's activations in the backward pass instead of storing them."""

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """[batch, tokens, width] -> tokens after the last block"""
        for block in self:
            if self.checkpointing and self.training:
                x, sizes = checkpoint(block, x, sizes, use_reentrant=False)
            else:
                x, sizes = block(x, sizes)
        return x


def blocks_of(module: nn.Module) -> Blocks:
    """The blocks of a canonical model."""
    return next(part for part in module.modules() if isinstance(part, Blocks))


def named_blocks(module: nn.Module) -> dict[str, HeadwiseBlock]:
    """Blocks by module name, in order."""
    return {name: part for name, part in module.named_modules() if isinstance(part, HeadwiseBlock)}


def token_merges(module: nn.Module) -> tuple[TokenMerge, ...]:
    """The layers that merge tokens, in order."""
    return tuple(part for part in module.modules() if isinstance(part, TokenMerge))


def attentions(module: nn.Module) -> dict[str, HeadwiseAttention]:
    """Attention layers by module name, in order."""
    return {name: part for name, part in module.named_modules() if isinstance(part, HeadwiseAttention)}


def block_of(name: str, blocks: Sequence[str]) -> int | None:
    """Index of the block, among blocks of these names, that contains the module or parameter `name`."""
    return next((index for index, block in enumerate(blocks) if f"{name}.".startswith(f"{block}.")), None)


def _linear(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear)
    return layer
