"""The gradient of `headwise_forward`: one kernel for keys and values, one for queries.

The weights are recomputed from the logarithm of each row's sum (Dao et al., 2022, "FlashAttention", algorithm 4). Every
element of the gradient is written by one program, in one order: no atomics, the same bits every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from toolkit.kernels.headwise_tiles import GROUP, LOG2_E, columns, load, logits_of, store


@triton.jit
def _grad_of_logits(
    weights,  # [rows, columns]
    grad,  # [rows, DV] of the head's output
    mixed,  # [rows, DV] the head's output
    values,  # [columns, DV]
):
    """w * (dL/dw - sum over the row of w dL/dw), where that sum is the product of an output with its gradient."""
    delta = tl.sum(grad.to(tl.float32) * mixed.to(tl.float32), 1)
    return weights * (tl.dot(grad, tl.trans(values), input_precision="ieee") - delta[:, None])


@triton.jit
def backward_keys(
    q,  # [batch, rows, Q], any distance between rows and images
    k,  # [batch, tokens, Q]
    v,  # [batch, tokens, V]
    out,  # [batch, rows, V], what the forward pass has written
    lse,  # [batch, heads, rows] float32, log2 of every row's sum, likewise
    bias,  # [heads, rows, tokens], its rows filled up to whole groups; not read unless HAS_BIAS
    table,  # see `headwise_tiles.columns`
    grad_out,  # [batch, rows, V], at the distances of out
    grad_k,  # [batch, tokens, Q]
    grad_v,  # [batch, tokens, V]
    heads,  # how many
    rows,  # queries of an image
    tokens,  # keys of an image
    q_image,  # distances of images and of rows, in groups
    q_row,
    kv_image,
    kv_row,
    out_image,
    out_row,
    grad_kv_image,
    grad_kv_row,
    bias_head,  # distances of heads and of rows, in groups
    bias_row,
    scale,  # of the logits
    KEYS: tl.constexpr,  # keys of a program
    TILE: tl.constexpr,  # queries at a time
    DQ: tl.constexpr,  # at least the widest head's qk_dim
    DV: tl.constexpr,  # and v_dim
    HAS_BIAS: tl.constexpr,
):
    """Gradients of a tile of keys and values: grid (batch * heads, tiles of keys), through all queries in order."""
    head, image = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    qk_first, v_first, qk_dim, v_dim = columns(table, head)
    q += (image * q_image + qk_first) * GROUP
    out += (image * out_image + v_first) * GROUP
    grad_out += (image * out_image + v_first) * GROUP
    lse += (image * heads + head) * rows
    bias += head.to(tl.int64) * (bias_head * GROUP)

    column = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    keys = load(k + (image * kv_image + qk_first) * GROUP, column, kv_row, tokens, qk_dim, DQ)
    values = load(v + (image * kv_image + v_first) * GROUP, column, kv_row, tokens, v_dim, DV)
    of_keys = tl.zeros([KEYS, DQ], tl.float32)
    of_values = tl.zeros([KEYS, DV], tl.float32)
    for first in range(0, rows, TILE):
        row = first + tl.arange(0, TILE)
        queries = load(q, row, q_row, rows, qk_dim, DQ)
        grad = load(grad_out, row, out_row, rows, v_dim, DV)
        mixed = load(out, row, out_row, rows, v_dim, DV)
        logits = logits_of(queries, keys, row, column, rows, tokens, scale * LOG2_E, bias, bias_row, HAS_BIAS)
        weights = tl.exp2(logits - tl.load(lse + row, mask=row < rows, other=float("inf"))[:, None])
        of_values = tl.dot(tl.trans(weights.to(grad.dtype)), grad, of_values, input_precision="ieee")
        of_logits = _grad_of_logits(weights, grad, mixed, values).to(queries.dtype)
        of_keys = tl.dot(tl.trans(of_logits), queries, of_keys, input_precision="ieee")
    store(grad_k + (image * grad_kv_image + qk_first) * GROUP, column, grad_kv_row, tokens, qk_dim, of_keys * scale, DQ)
    store(grad_v + (image * grad_kv_image + v_first) * GROUP, column, grad_kv_row, tokens, v_dim, of_values, DV)


@triton.jit
def backward_queries(
    q,  # [batch, rows, Q], any distance between rows and images
    k,  # [batch, tokens, Q]
    v,  # [batch, tokens, V]
    out,  # [batch, rows, V], what the forward pass has written
    lse,  # [batch, heads, rows] float32, log2 of every row's sum, likewise
    bias,  # [heads, rows, tokens], its rows filled up to whole groups; not read unless HAS_BIAS
    table,  # see `headwise_tiles.columns`
    grad_out,  # [batch, rows, V], at the distances of out
    grad_q,  # [batch, rows, Q]
    heads,  # how many
    rows,  # queries of an image
    tokens,  # keys of an image
    q_image,  # distances of images and of rows, in groups
    q_row,
    kv_image,
    kv_row,
    out_image,
    out_row,
    grad_q_image,
    grad_q_row,
    bias_head,  # distances of heads and of rows, in groups
    bias_row,
    scale,  # of the logits
    KEYS: tl.constexpr,  # keys at a time
    TILE: tl.constexpr,  # queries of a program
    DQ: tl.constexpr,  # at least the widest head's qk_dim
    DV: tl.constexpr,  # and v_dim
    HAS_BIAS: tl.constexpr,
):
    """Gradients of a tile of queries: grid (batch * heads, tiles of queries), through all keys in order."""
    head, image = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    qk_first, v_first, qk_dim, v_dim = columns(table, head)
    k += (image * kv_image + qk_first) * GROUP
    v += (image * kv_image + v_first) * GROUP
    bias += head.to(tl.int64) * (bias_head * GROUP)

    row = tl.program_id(1) * TILE + tl.arange(0, TILE)
    queries = load(q + (image * q_image + qk_first) * GROUP, row, q_row, rows, qk_dim, DQ)
    grad = load(grad_out + (image * out_image + v_first) * GROUP, row, out_row, rows, v_dim, DV)
    mixed = load(out + (image * out_image + v_first) * GROUP, row, out_row, rows, v_dim, DV)
    sums = tl.load(lse + (image * heads + head) * rows + row, mask=row < rows, other=float("inf"))
    of_queries = tl.zeros([TILE, DQ], tl.float32)
    for first in range(0, tokens, KEYS):
        column = first + tl.arange(0, KEYS)
        keys = load(k, column, kv_row, tokens, qk_dim, DQ)
        values = load(v, column, kv_row, tokens, v_dim, DV)
        logits = logits_of(queries, keys, row, column, rows, tokens, scale * LOG2_E, bias, bias_row, HAS_BIAS)
        of_logits = _grad_of_logits(tl.exp2(logits - sums[:, None]), grad, mixed, values).to(keys.dtype)
        of_queries = tl.dot(of_logits, keys, of_queries, input_precision="ieee")
    store(grad_q + (image * grad_q_image + qk_first) * GROUP, row, grad_q_row, rows, qk_dim, of_queries * scale, DQ)
