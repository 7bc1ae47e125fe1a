"""Multi-head attention whose heads may differ in query/key width and value width."""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from timm.models.beit import gen_relative_position_index
from torch import Tensor, nn

from toolkit.kernels.headwise_attention import headwise_attention
from toolkit.records import HeadLayout


class HeadwiseAttention(nn.Module):
    """Multi-head self-attention with a packed QKV projection and heads as described by `layout`.

    Parameters (width: residual channels; Q, V: sums of the heads' qk_dim and v_dim):
        qkv.weight  [Q + Q + V, width]     queries, keys, values; heads in order within each
        q_bias, k_bias, v_bias  [Q], [Q], [V], or None (BEiT has no key bias)
        proj.weight [width, V], proj.bias
        relative_position_bias_table [offsets, heads], only with `relative_position_index` [tokens, tokens]
        q_norm, k_norm: norms over the channels of a query and of a key, the same for all heads, or None

    `scale` is the source model's softmax scale, and independent of pruned widths.
    """

    relative_position_index: Tensor | None

    def __init__(self, layout: HeadLayout, width: int, scale: float, relative_position_index: Tensor | None) -> None:
        super().__init__()
        self.layout = layout
        self.scale = scale
        self.num_queries: int | None = None
        """Only the first tokens are queries, this many, and have outputs; None: all."""
        self.qkv = nn.Linear(width, 2 * layout.qk_width + layout.v_width, bias=False)
        self.q_bias: nn.Parameter | None = nn.Parameter(torch.zeros(layout.qk_width))
        self.k_bias: nn.Parameter | None = nn.Parameter(torch.zeros(layout.qk_width))
        self.v_bias: nn.Parameter | None = nn.Parameter(torch.zeros(layout.v_width))
        self.proj = nn.Linear(layout.v_width, width)
        self.attn_drop = nn.Dropout(0.0)
        self.proj_drop = nn.Dropout(0.0)
        self.q_norm: nn.Module | None
        self.k_norm: nn.Module | None
        self.register_module("q_norm", None)
        self.register_module("k_norm", None)
        self.relative_position_bias_table: nn.Parameter | None = None
        if relative_position_index is not None:
            offsets = int(relative_position_index.max()) + 1
            self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, len(layout.heads)))
        self.register_buffer("relative_position_index", relative_position_index, persistent=False)

    def forward(self, x: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """[batch, tokens, width] -> [batch, query tokens, width]

        key_bias: [batch, tokens] or None, added to the logits of every head and query; see `headwise_attention`.
        """
        packed, queries = self._projected(x)
        bias = self.position_bias()
        if bias is not None and self.num_queries is not None:
            bias = bias[:, : self.num_queries]
        dropout = self.attn_drop.p if self.training else 0.0
        mixed = headwise_attention(packed, self.layout.heads, self.scale, bias, dropout, queries, key_bias)
        output: Tensor = self.proj_drop(self.proj(mixed))
        return output

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """[batch, tokens, Q + Q + V] and None, or [batch, tokens, Q + V] and queries [batch, query tokens, Q]"""
        weight, bias, width, heads = self.qkv.weight, self.packed_bias(), self.layout.qk_width, len(self.layout.heads)
        if self.num_queries is None:
            packed = F.linear(x, weight, bias)
            if self.q_norm is not None and self.k_norm is not None:
                q, k, v = packed.split([width, width, self.layout.v_width], dim=-1)
                packed = torch.cat([normed(self.q_norm, q, heads), normed(self.k_norm, k, heads), v], dim=-1)
            return packed, None
        q_bias, kv_bias = (None, None) if bias is None else (bias[:width], bias[width:])
        queries = F.linear(x[:, : self.num_queries], weight[:width], q_bias)
        packed = F.linear(x, weight[width:], kv_bias)
        if self.q_norm is not None and self.k_norm is not None:
            k, v = packed.split([width, self.layout.v_width], dim=-1)
            queries, packed = normed(self.q_norm, queries, heads), torch.cat([normed(self.k_norm, k, heads), v], dim=-1)
        return packed, queries

    def set_window_size(self, window: tuple[int, int]) -> None:
        """Interpolate the relative position table for a new patch grid (rows, columns). Called by timm's BEiT."""
        table, index = self.relative_position_bias_table, self.relative_position_index
        if table is None or index is None:
            return
        side = math.isqrt(len(index) - 1)  # without the class token; images are square
        offsets = (2 * window[0] - 1) * (2 * window[1] - 1) + 3
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # timm 1.0 indexes with a list, where PyTorch expects a tuple
            resized = resize_rel_pos_bias_table(table, window, (offsets, table.shape[1]), (side, side))
        self.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)
        self.relative_position_index = gen_relative_position_index(window, device=index.device)

    def layout_mismatch(self) -> str:
        """How tensor shapes differ from the layout; empty if they match."""
        layout, table = self.layout, self.relative_position_bias_table
        sizes = {
            "qkv.weight": (self.qkv.weight.shape[0], 2 * layout.qk_width + layout.v_width),
            "proj.weight": (self.proj.weight.shape[1], layout.v_width),
            "q_bias": (layout.qk_width if self.q_bias is None else len(self.q_bias), layout.qk_width),
            "relative_position_bias_table": (len(layout.heads) if table is None else table.shape[1], len(layout.heads)),
        }
        return "; ".join(
            f"{name} has size {actual}, the layout requires {expected}"
            for name, (actual, expected) in sizes.items()
            if actual != expected
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{count} x (qk {qk}, v {v})" for count, qk, v in self.layout.buckets)

    def packed_bias(self) -> Tensor | None:
        """[Q + Q + V] with zeros for a missing bias; None if all are missing."""
        parts = (self.q_bias, self.k_bias, self.v_bias)
        if all(part is None for part in parts):
            return None
        widths = (self.layout.qk_width, self.layout.qk_width, self.layout.v_width)
        zeros = self.qkv.weight.new_zeros
        return torch.cat([zeros(width) if part is None else part for part, width in zip(parts, widths, strict=True)])

    def position_bias(self) -> Tensor | None:
        """[heads, tokens, tokens] gathered from BEiT's relative position table; None without a table."""
        if self.relative_position_bias_table is None or self.relative_position_index is None:
            return None
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)


def normed(norm: nn.Module, x: Tensor, heads: int) -> Tensor:
    """`norm` of each head's queries or keys: [..., Q] -> [..., Q]"""
    output: Tensor = norm(x.unflatten(-1, (heads, -1))).flatten(-2)
    return output
