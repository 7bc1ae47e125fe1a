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
    q, k, v = _split(qkv, heads)
    outputs, qk_start, v_start, first = [], 0, 0, 0
    for (qk_dim, v_dim), run in groupby(heads):
        count = len(list(run))
        qk_end, v_end = qk_start + count * qk_dim, v_start + count * v_dim
        outputs.append(
            F.scaled_dot_product_attention(
                _by_head(q[..., qk_start:qk_end], count),
                _by_head(k[..., qk_start:qk_end], count),
                _by_head(v[..., v_start:v_end], count),
                attn_mask=None if bias is None else bias[first : first + count],
                dropout_p=dropout,
                scale=scale,
            )
            .transpose(1, 2)  # [batch, tokens, heads of the run, v_dim]
            .flatten(2)
        )
        qk_start, v_start, first = qk_end, v_end, first + count
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def reference(qkv: Tensor, heads: Heads, scale: float, bias: Tensor | None = None) -> Tensor:
    """The same written out head by head, for tests; arguments as `headwise_attention`."""
    q, k, v = _split(qkv, heads)
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


def _split(qkv: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    qk_width, v_width = sum(qk for qk, _ in heads), sum(v for _, v in heads)
    q, k, v = qkv.split((qk_width, qk_width, v_width), dim=-1)
    return q, k, v


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[batch, tokens, heads * dim] -> [batch, heads, tokens, dim]"""
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, heads, width // heads).transpose(1, 2)
