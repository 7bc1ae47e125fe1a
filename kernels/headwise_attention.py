"""Self-attention whose heads may differ in number and width, straight from the packed projection.

`reference` says what is computed, one head at a time. `bucketed` computes it with PyTorch's fused attention, one call
for each run of equal heads. `headwise_attention` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

Heads = Sequence[tuple[int, int]]
"""(qk_dim, v_dim) of each head, in memory order."""


def headwise_attention(
    qkv: Tensor, heads: Heads, scale: float, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T * scale + bias) v for every head (Vaswani et al., 2017), heads of any width.

    qkv:     [batch, tokens, sum qk + sum qk + sum v], all queries, then all keys, then all values, head after head.
    bias:    [heads, tokens, tokens] or None, added before the softmax.
    dropout: probability of dropping an attention weight; 0 outside training.
    Returns  [batch, tokens, sum v], head after head: what the output projection reads.
    """
    return bucketed(qkv, heads, scale, bias, dropout)


def bucketed(qkv: Tensor, heads: Heads, scale: float, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """One `scaled_dot_product_attention` for each run of equal heads; arguments as `headwise_attention`."""
    runs = [(len(list(run)), qk_dim, v_dim) for (qk_dim, v_dim), run in groupby(heads)]
    qk_widths, v_widths = [count * qk for count, qk, _ in runs], [count * v for count, _, v in runs]
    parts = qkv.split([*qk_widths, *qk_widths, *v_widths], dim=-1)
    outputs, first = [], 0
    for run, (count, qk_dim, v_dim) in enumerate(runs):
        q, k, v = (  # [batch, heads of the run, tokens, dim]
            parts[run + turn * len(runs)].unflatten(-1, (count, dim)).transpose(1, 2)
            for turn, dim in enumerate((qk_dim, qk_dim, v_dim))
        )
        own_bias = None if bias is None else bias[first : first + count]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=own_bias, dropout_p=dropout, scale=scale)
        outputs.append(mixed.transpose(1, 2).flatten(2))
        first += count
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def reference(qkv: Tensor, heads: Heads, scale: float, bias: Tensor | None = None) -> Tensor:
    """The same written out head by head, for tests; arguments as `headwise_attention`."""
    qk_width, v_width = sum(qk for qk, _ in heads), sum(v for _, v in heads)
    q, k, v = qkv.split((qk_width, qk_width, v_width), dim=-1)
    outputs, qk_start, v_start = [], 0, 0
    for index, (qk_dim, v_dim) in enumerate(heads):
        query = q[..., qk_start : qk_start + qk_dim]  # [batch, tokens, qk_dim]
        key = k[..., qk_start : qk_start + qk_dim]
        logits = query @ key.transpose(1, 2) * scale  # [batch, tokens, tokens]
        if bias is not None:
            logits = logits + bias[index]
        outputs.append(logits.softmax(dim=-1) @ v[..., v_start : v_start + v_dim])
        qk_start, v_start = qk_start + qk_dim, v_start + v_dim
    return torch.cat(outputs, dim=-1)
