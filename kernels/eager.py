"""Attention over uneven heads in PyTorch: one fused call per bucket of equal heads, and a reference for tests.

Shapes in this file: Q and V are the sums of the heads' qk_dim and v_dim, `queries` and `keys` numbers of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.kernels.heads import Heads, total_widths


def check(
    packed: Tensor,
    heads: Heads,
    bias: Tensor | None = None,
    queries: Tensor | None = None,
    key_bias: Tensor | None = None,
) -> None:
    """Raise TypeError or ValueError for arguments that `headwise_attention` does not accept."""
    if not heads or min(map(min, heads)) < 1:
        raise ValueError(f"every head needs a qk_dim and a v_dim of at least 1, got {list(heads)}")
    named = {"packed": (packed, 3), "bias": (bias, 3), "queries": (queries, 3), "key_bias": (key_bias, 2)}
    for name, (tensor, rank) in named.items():
        if tensor is not None and (tensor.ndim != rank or not tensor.is_floating_point()):
            raise TypeError(f"{name} must be a {rank}-dimensional floating-point tensor, got {_describe(tensor)}")
    qk_width, v_width = total_widths(heads)
    _check_tokens("packed", packed, v_width + qk_width * (2 if queries is None else 1))
    num_queries = packed.shape[1]
    if queries is not None:
        _check_tokens("queries", queries, qk_width)
        if queries.dtype != packed.dtype or queries.shape[0] != packed.shape[0]:
            raise ValueError(
                f"queries and packed must have the same dtype and batch size, got {_describe(queries)} and "
                f"{_describe(packed)}"
            )
        num_queries = queries.shape[1]
    batch, num_keys, _ = packed.shape
    _check_shape("bias", bias, (len(heads), num_queries, num_keys))
    _check_shape("key_bias", key_bias, (batch, num_keys))


def _check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have the shape {list(shape)}, got {list(tensor.shape)}")


def _check_tokens(name: str, tensor: Tensor, width: int) -> None:
    if tensor.shape[2] != width:
        raise ValueError(f"the last dimension of {name} must be {width} for these heads, got {tensor.shape[2]}")
    if tensor.shape[1] == 0:
        raise ValueError(f"{name} has no tokens")
    if tensor.stride(2) != 1:
        raise ValueError(f"the last dimension of {name} must be contiguous: call .contiguous() first")


def _describe(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {tensor.dtype}"


def bucketed(
    packed: Tensor,
    heads: Heads,
    scale: float,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    queries: Tensor | None = None,
    key_bias: Tensor | None = None,
) -> Tensor:
    """One `scaled_dot_product_attention` per bucket of adjacent equal heads; arguments as `headwise_attention`."""
    buckets = [(len(list(bucket)), qk_dim, v_dim) for (qk_dim, v_dim), bucket in groupby(heads)]
    qk_widths, v_widths = [count * qk for count, qk, _ in buckets], [count * v for count, _, v in buckets]
    if queries is None:
        parts = packed.split([*qk_widths, *qk_widths, *v_widths], dim=-1)
    else:
        parts = (*queries.split(qk_widths, dim=-1), *packed.split([*qk_widths, *v_widths], dim=-1))
    outputs, first = [], 0
    for index, (count, qk_dim, v_dim) in enumerate(buckets):
        q, k, v = (  # [batch, heads of the bucket, queries or keys, dim]
            parts[index + part * len(buckets)].unflatten(-1, (count, dim)).transpose(1, 2)
            for part, dim in enumerate((qk_dim, qk_dim, v_dim))
        )
        mask = _mask(None if bias is None else bias[first : first + count], key_bias, q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
        outputs.append(out.transpose(1, 2).flatten(2))
        first += count
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def _mask(bias: Tensor | None, key_bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Additive mask of SDPA, broadcastable to [batch, heads of the bucket, queries, keys]."""
    if key_bias is None:
        return None if bias is None else bias.to(dtype)
    per_image = key_bias[:, None, None, :]
    return (per_image if bias is None else per_image + bias).to(dtype)


def reference(
    packed: Tensor,
    heads: Heads,
    scale: float,
    bias: Tensor | None = None,
    queries: Tensor | None = None,
    key_bias: Tensor | None = None,
) -> Tensor:
    """Attention written out head by head, for tests; arguments as `headwise_attention`."""
    q, k, v = split_qkv(packed, queries, heads)
    outputs = [
        _head_logits(q, k, head, scale, bias, key_bias).softmax(dim=-1) @ v[..., head.v] for head in _head_slices(heads)
    ]
    return torch.cat(outputs, dim=-1)


def reference_lse(
    packed: Tensor,
    heads: Heads,
    scale: float,
    bias: Tensor | None = None,
    queries: Tensor | None = None,
    key_bias: Tensor | None = None,
) -> Tensor:
    """Base-2 log-sum-exp of the logits over the keys, [batch, heads, queries] float32, head by head."""
    q, k, _ = split_qkv(packed, queries, heads)
    logits = (_head_logits(q, k, head, scale, bias, key_bias).float() for head in _head_slices(heads))
    return torch.stack([head_logits.logsumexp(dim=-1) * math.log2(math.e) for head_logits in logits], dim=1)


def reference_gradients(
    grad_out: Tensor,
    packed: Tensor,
    heads: Heads,
    scale: float,
    bias: Tensor | None,
    queries: Tensor | None,
    key_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of packed, queries, bias and key_bias from `grad_out` [batch, queries, V], in at least float32."""
    dtype = torch.promote_types(packed.dtype, torch.float32)
    q, k, v = (part.to(dtype) for part in split_qkv(packed, queries, heads))
    grad_q, grad_k, grad_v, grad_bias, grad_key_bias = [], [], [], [], []
    for head in _head_slices(heads):
        probs = _head_logits(q, k, head, scale, bias, key_bias).softmax(dim=-1)
        grad = grad_out[..., head.v].to(dtype)
        grad_probs = grad @ v[..., head.v].transpose(1, 2)
        grad_logits = probs * (grad_probs - (grad_probs * probs).sum(dim=-1, keepdim=True))
        grad_q.append(grad_logits @ k[..., head.qk] * scale)
        grad_k.append(grad_logits.transpose(1, 2) @ q[..., head.qk] * scale)
        grad_v.append(probs.transpose(1, 2) @ grad)
        grad_bias.append(grad_logits.sum(dim=0))
        grad_key_bias.append(grad_logits.sum(dim=1))
    packed_q = grad_q if queries is None else []
    return (
        torch.cat([*packed_q, *grad_k, *grad_v], dim=-1).to(packed.dtype),
        None if queries is None else torch.cat(grad_q, dim=-1).to(packed.dtype),
        None if bias is None else torch.stack(grad_bias).to(bias.dtype),
        None if key_bias is None else torch.stack(grad_key_bias).sum(dim=0).to(key_bias.dtype),
    )


def split_qkv(packed: Tensor, queries: Tensor | None, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Views of q [batch, queries, Q], k [batch, keys, Q] and v [batch, keys, V] of all heads."""
    qk_width, v_width = total_widths(heads)
    if queries is None:
        q, k, v = packed.split((qk_width, qk_width, v_width), dim=-1)
        return q, k, v
    k, v = packed.split((qk_width, v_width), dim=-1)
    return queries, k, v


class _Head(NamedTuple):
    """Index of a head, and the slices of its elements in the concatenation of all heads."""

    number: int
    qk: slice
    v: slice


def _head_slices(heads: Heads) -> Iterator[_Head]:
    qk_start, v_start = 0, 0
    for index, (qk_dim, v_dim) in enumerate(heads):
        yield _Head(index, slice(qk_start, qk_start + qk_dim), slice(v_start, v_start + v_dim))
        qk_start, v_start = qk_start + qk_dim, v_start + v_dim


def _head_logits(
    q: Tensor, k: Tensor, head: _Head, scale: float, bias: Tensor | None, key_bias: Tensor | None
) -> Tensor:
    """Logits [batch, queries, keys] of one head, with its bias [queries, keys] and each image's key_bias."""
    logits = q[..., head.qk] @ k[..., head.qk].transpose(1, 2) * scale
    if bias is not None:
        logits = logits + bias[head.number].to(logits.dtype)
    return logits if key_bias is None else logits + key_bias[:, None, :].to(logits.dtype)
