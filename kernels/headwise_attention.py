"""Self-attention whose heads may differ in number and width, straight from the packed projection."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from toolkit.kernels.dispatch import select_backend
from toolkit.kernels.eager import bucketed, check
from toolkit.kernels.heads import Heads


def headwise_attention(
    packed: Tensor,
    heads: Heads,
    scale: float,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    queries: Tensor | None = None,
    key_bias: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T * scale + bias + key_bias) v per head (Vaswani et al., 2017), for heads of any width.

    packed:   [batch, keys, Q + Q + V]: the projection's q, k and v, each head after head; Q and V are the sums of the
              heads' qk_dim and v_dim. With `queries`: [batch, keys, Q + V], k and v only.
    bias:     [heads, queries, keys] or None, added to the logits of every image (BEiT's relative positions).
    dropout:  probability of dropping an attention weight; 0 outside training.
    queries:  [batch, queries, Q] for fewer query tokens than key tokens, or None: every token is a query.
    key_bias: [batch, keys] or None, added to the logits of every head and query: the log of merged tokens' sizes, or
              -inf for padding. Every image needs a key that is not masked.
    Returns   [batch, queries, V], head after head: the input of the output projection.

    Warns when only the head widths keep the layer from the fused kernel; the result is the same.
    Raises TypeError unless tensors are 3-dimensional and floating-point; ValueError for heads that do not match the
    tensors' shapes, for no tokens, and for a last dimension that is not contiguous.
    """
    check(packed, heads, bias, queries, key_bias)
    backend, reason, hint = select_backend(packed, heads, dropout)
    if backend == "sdpa":
        if hint and not torch.compiler.is_compiling():
            warnings.warn(f"falling back to one SDPA call per bucket of equal heads: {reason}; {hint}", stacklevel=2)
        return bucketed(packed, heads, scale, bias, dropout, queries, key_bias)
    from toolkit.kernels import headwise_operator

    tensors = (packed, queries, None if bias is None else bias.contiguous(), key_bias)
    dims = [qk for qk, _ in heads], [v for _, v in heads]
    with_lse = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    out: Tensor = headwise_operator.operator(*tensors, *dims, scale, with_lse)[0]
    return out
