"""The one attention of this toolkit: any number of heads, each with its own query/key width and value width."""

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
    """Multi-head self-attention over a packed projection, in the layout that `HeadLayout` describes.

    Parameters (width: residual channels; Q, V: sums of the heads' qk_dim and v_dim):
        qkv.weight  [Q + Q + V, width]     queries, keys, values, head after head
        q_bias, k_bias, v_bias  [Q], [Q], [V], each may be None (BEiT has no key bias)
        proj.weight [width, V], proj.bias
        relative_position_bias_table [distances, heads], only with `relative_position_index` [tokens, tokens]

    `scale` is the source model's and never follows the width: cutting a unit must not change the others' softmax.
    """

    relative_position_index: Tensor | None

    def __init__(self, layout: HeadLayout, width: int, scale: float, relative_position_index: Tensor | None) -> None:
        super().__init__()
        self.layout = layout
        self.scale = scale
        self.qkv = nn.Linear(width, 2 * layout.qk_width + layout.v_width, bias=False)
        self.q_bias: nn.Parameter | None = nn.Parameter(torch.zeros(layout.qk_width))
        self.k_bias: nn.Parameter | None = nn.Parameter(torch.zeros(layout.qk_width))
        self.v_bias: nn.Parameter | None = nn.Parameter(torch.zeros(layout.v_width))
        self.proj = nn.Linear(layout.v_width, width)
        self.attn_drop = nn.Dropout(0.0)
        self.proj_drop = nn.Dropout(0.0)
        self.relative_position_bias_table: nn.Parameter | None = None
        if relative_position_index is not None:
            distances = int(relative_position_index.max()) + 1
            self.relative_position_bias_table = nn.Parameter(torch.zeros(distances, len(layout.heads)))
        self.register_buffer("relative_position_index", relative_position_index, persistent=False)

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        shared_rel_pos_bias: Tensor | None = None,
    ) -> Tensor:
        """x: [batch, tokens, width] -> the same shape. timm's blocks pass the other arguments; they must stay unset."""
        if attn_mask is not None or is_causal or shared_rel_pos_bias is not None:
            raise NotImplementedError("HeadwiseAttention takes no mask and no shared position bias")
        packed = F.linear(x, self.qkv.weight, self.packed_bias())  # [batch, tokens, Q + Q + V]
        dropout = self.attn_drop.p if self.training else 0.0
        mixed = headwise_attention(packed, self.layout.heads, self.scale, self.position_bias(), dropout)
        output: Tensor = self.proj_drop(self.proj(mixed))
        return output

    def set_window_size(self, window: tuple[int, int]) -> None:
        """For images of another size: interpolate the table of relative positions. timm's BEiT calls this."""
        table, index = self.relative_position_bias_table, self.relative_position_index
        if table is None or index is None:
            return
        side = math.isqrt(len(index) - 1)  # without the class token; every model here takes square images
        distances = (2 * window[0] - 1) * (2 * window[1] - 1) + 3
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # timm 1.0 indexes with a list, which PyTorch would have a tuple
            wider = resize_rel_pos_bias_table(table, window, (distances, table.shape[1]), (side, side))
        self.relative_position_bias_table = nn.Parameter(wider, requires_grad=table.requires_grad)
        self.relative_position_index = gen_relative_position_index(window, device=index.device)

    def misfit(self) -> str:
        """How the layout and the tensors disagree; empty if they do not."""
        layout, table = self.layout, self.relative_position_bias_table
        expected = {
            "qkv.weight": (self.qkv.weight.shape[0], 2 * layout.qk_width + layout.v_width),
            "proj.weight": (self.proj.weight.shape[1], layout.v_width),
            "q_bias": (layout.qk_width if self.q_bias is None else len(self.q_bias), layout.qk_width),
            "position table": (len(layout.heads) if table is None else table.shape[1], len(layout.heads)),
        }
        faults = [
            f"{name} is for {has}, the layout for {says}" for name, (has, says) in expected.items() if has != says
        ]
        return "; ".join(faults)

    def extra_repr(self) -> str:
        return ", ".join(f"{count} x (qk {qk}, v {v})" for count, qk, v in self.layout.buckets)

    def packed_bias(self) -> Tensor | None:
        """[Q + Q + V], zeros where a projection has no bias."""
        parts = (self.q_bias, self.k_bias, self.v_bias)
        if all(part is None for part in parts):
            return None
        widths = (self.layout.qk_width, self.layout.qk_width, self.layout.v_width)
        zeros = self.qkv.weight.new_zeros
        return torch.cat([zeros(width) if part is None else part for part, width in zip(parts, widths, strict=True)])

    def position_bias(self) -> Tensor | None:
        """[heads, tokens, tokens] from the table of relative positions (BEiT), or None."""
        if self.relative_position_bias_table is None or self.relative_position_index is None:
            return None
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
