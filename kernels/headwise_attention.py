"""Self-attention whose heads may differ in number and width, straight from the packed projection.

`reference` says what is computed, one head at a time. `bucketed` computes it with PyTorch's fused attention and
`decomposed` with plain matrix products, both with one step for each run of equal heads. `headwise_attention` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def attend(q: Tensor, k: Tensor, v: Tensor, own_bias: Tensor | None) -> Tensor:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [batch, heads of the run, tokens, dim]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=own_bias, dropout_p=dropout, scale=scale)

    return _by_runs(attend, qkv, heads, bias, qkv.shape[1])


def decomposed(
    qkv: Tensor, heads: Heads, scale: float, bias: Tensor | None = None, dropout: float = 0.0, tokens: int | None = None
) -> Tensor:
    """Two matrix products and a softmax for each run of equal heads; arguments as `headwise_attention`.

    For exported graphs: keys are laid out for their product by a single transposition, all shapes are constants, and
    with `tokens` given, input and output are flat: [batch * tokens, ...].
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, own_bias: Tensor | None) -> Tensor:
        logits = (q.transpose(1, 2) * scale) @ k.permute(0, 2, 3, 1)  # [batch, heads of the run, tokens, tokens]
        weights = (logits if own_bias is None else logits + own_bias).softmax(dim=-1)
        return (F.dropout(weights, dropout) if dropout else weights) @ v.transpose(1, 2)

    mixed = _by_runs(attend, qkv, heads, bias, tokens or qkv.shape[1])
    return mixed if tokens is None else mixed.view(-1, mixed.shape[-1])


Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""q, k, v: [batch, tokens, heads of the run, dim] and their bias -> [batch, heads of the run, tokens, v_dim]"""


def _by_runs(attend: Attend, qkv: Tensor, heads: Heads, bias: Tensor | None, tokens: int) -> Tensor:
    """Split the packed projection into runs of equal heads, attend in each, and pack the results."""
    runs = [(len(list(run)), qk_dim, v_dim) for (qk_dim, v_dim), run in groupby(heads)]
    qk_widths, v_widths = [count * qk for count, qk, _ in runs], [count * v for count, _, v in runs]
    parts = qkv.split([*qk_widths, *qk_widths, *v_widths], dim=-1)
    outputs, first = [], 0
    for run, (count, qk_dim, v_dim) in enumerate(runs):
        mixed = attend(
            parts[run].view(-1, tokens, count, qk_dim),
            parts[run + len(runs)].view(-1, tokens, count, qk_dim),
            parts[run + 2 * len(runs)].view(-1, tokens, count, v_dim),
            None if bias is None else bias[first : first + count],
        )
        outputs.append(mixed.transpose(1, 2).contiguous().view(-1, tokens, count * v_dim))
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
