"""Fused attention for heads of any number and any width: one launch for a whole layer.

A head reads its columns of the packed projection where they lie and writes its columns of the output projection's
input: no permutation, no padding in memory. Which columns, and how many, is in a small table on the device; the widest
head sets the size of the tiles (`DQ`, `DV`), and narrower heads leave some of it masked, which costs arithmetic but no
memory traffic.

For few tokens (`headwise_launch` knows how few), `whole_row` keeps keys and values of a head on the chip and computes
whole rows of logits, so that the softmax needs one pass (Zhai et al., 2023, "ByteTransformer", for heads of one width).
The power of two that holds 197 tokens is 256, and a quarter of it would be waste: the keys are cut into descending
powers of two, 128 + 64 + 16, with one maximum over all. For more, `online` goes through the keys tile by tile and
rescales what it has summed up (Dao et al., 2022, "FlashAttention"). The backward pass recomputes the weights from the
logarithm of each row's sum (ibid.); every element of the gradient is written by one program, in one order: no atomics,
the same bits every time.

Products are of the inputs' type and accumulate in float32, as does the softmax. Logits are in units of log 2, for exp2.
"""

from __future__ import annotations

import triton
import triton.language as tl

from toolkit.kernels.headwise_attention import ALIGNMENT

LOG2_E = tl.constexpr(1.4426950408889634)
GROUP = tl.constexpr(ALIGNMENT)
"""Units that are read and written at once: 16 bytes. Widths and distances count in groups, so that the compiler sees
products with 8; of a number that it knows nothing about it would load unit by unit."""


@triton.jit
def _columns(
    table,  # [heads, 4] int32, in groups: first of q and k, first of v and out, qk_dim, v_dim
    head,
):
    """Where a head lies, in groups, and how wide it is, in units."""
    entry = table + 4 * head
    return tl.load(entry), tl.load(entry + 1), tl.load(entry + 2) * GROUP, tl.load(entry + 3) * GROUP


@triton.jit
def _places(base, row, row_stride, COLUMNS: tl.constexpr):
    """Pointers [rows, COLUMNS] from the first unit of a head on."""
    return base + row[:, None] * (row_stride * GROUP) + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def _there(row, count, width, COLUMNS: tl.constexpr):
    """[rows, COLUMNS]: which of them the tensor and the head really have."""
    return (row[:, None] < count) & (tl.arange(0, COLUMNS)[None, :] < width)


@triton.jit
def _load(base, row, row_stride, count, width, COLUMNS: tl.constexpr):
    """[rows, COLUMNS] of a head, zeros for what is not there: whatever lies there, NaN too, is not read."""
    return tl.load(_places(base, row, row_stride, COLUMNS), mask=_there(row, count, width, COLUMNS), other=0.0)


@triton.jit
def _store(base, row, row_stride, count, width, values, COLUMNS: tl.constexpr):
    places = _places(base, row, row_stride, COLUMNS)
    tl.store(places, values.to(base.dtype.element_ty), mask=_there(row, count, width, COLUMNS))


@triton.jit
def _logits(
    queries,  # [rows, DQ]
    keys,  # [columns, DQ]
    row,  # [rows] number of each query
    column,  # [columns] number of each key
    rows,  # queries there are
    tokens,  # keys there are
    scale_log2,  # scale * log2(e)
    bias,  # of this head, [rows, tokens], its rows filled up to whole groups
    bias_row,  # distance of its rows, in groups
    HAS_BIAS: tl.constexpr,
):
    """[rows, columns] in units of log 2; minus infinity for keys that are not there."""
    logits = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale_log2
    if HAS_BIAS:
        there = (row[:, None] < rows) & (column[None, :] < tl.cdiv(tokens, GROUP) * GROUP)
        added = tl.load(bias + row[:, None] * (bias_row * GROUP) + column[None, :], mask=there, other=0.0)
        logits += added.to(tl.float32) * LOG2_E
    return tl.where(column[None, :] < tokens, logits, float("-inf"))


@triton.jit
def whole_row(
    q,  # [batch, rows, Q], any distance between rows and images
    k,  # [batch, tokens, Q]
    v,  # [batch, tokens, V]
    out,  # [batch, rows, V]
    lse,  # [batch, heads, rows] float32, log2 of every row's sum; not written unless WITH_LSE
    bias,  # [heads, rows, tokens], its rows filled up to whole groups; not read unless HAS_BIAS
    table,  # see `_columns`
    heads,
    rows,
    q_image,  # distance of two images in groups, and of two rows
    q_row,
    kv_image,
    kv_row,
    out_image,
    out_row,
    bias_head,
    bias_row,
    scale_log2,  # scale * log2(e)
    TOKENS: tl.constexpr,  # a model has one number of them; whole pieces need no mask then
    KEYS_0: tl.constexpr,  # keys of the pieces, 0 where there is none
    KEYS_1: tl.constexpr,
    KEYS_2: tl.constexpr,
    HOPPER: tl.constexpr,  # its products read keys and values from shared memory: none are to wait in registers
    TILE: tl.constexpr,  # queries at a time
    DQ: tl.constexpr,  # at least the widest head's
    DV: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WITH_LSE: tl.constexpr,
):
    """Grid: batch * heads, and among how many programs the queries of a head are shared out.

    Heads come first: those of one image run at the same time, and share the cache lines that narrow heads leave half
    unread.
    """
    head, image = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    qk_first, v_first, qk_dim, v_dim = _columns(table, head)
    q += (image * q_image + qk_first) * GROUP
    k += (image * kv_image + qk_first) * GROUP
    v += (image * kv_image + v_first) * GROUP
    out += (image * out_image + v_first) * GROUP
    lse += (image * heads + head) * rows
    bias += head * (bias_head * GROUP)

    column_0 = tl.arange(0, KEYS_0)
    keys_0 = _load(k, column_0, kv_row, TOKENS, qk_dim, DQ)
    values_0 = _load(v, column_0, kv_row, TOKENS, v_dim, DV)
    if KEYS_1:
        column_1 = KEYS_0 + tl.arange(0, KEYS_1)
        keys_1 = _load(k, column_1, kv_row, TOKENS, qk_dim, DQ)
        values_1 = _load(v, column_1, kv_row, TOKENS, v_dim, DV)
    if KEYS_2:
        column_2 = KEYS_0 + KEYS_1 + tl.arange(0, KEYS_2)
        keys_2 = _load(k, column_2, kv_row, TOKENS, qk_dim, DQ)
        values_2 = _load(v, column_2, kv_row, TOKENS, v_dim, DV)

    for first in tl.range(tl.program_id(1) * TILE, rows, tl.num_programs(1) * TILE, disable_licm=HOPPER):
        row = first + tl.arange(0, TILE)
        queries = _load(q, row, q_row, rows, qk_dim, DQ)
        logits_0 = _logits(queries, keys_0, row, column_0, rows, TOKENS, scale_log2, bias, bias_row, HAS_BIAS)
        top = tl.max(logits_0, 1)
        if KEYS_1:
            logits_1 = _logits(queries, keys_1, row, column_1, rows, TOKENS, scale_log2, bias, bias_row, HAS_BIAS)
            top = tl.maximum(top, tl.max(logits_1, 1))
        if KEYS_2:
            logits_2 = _logits(queries, keys_2, row, column_2, rows, TOKENS, scale_log2, bias, bias_row, HAS_BIAS)
            top = tl.maximum(top, tl.max(logits_2, 1))

        weights_0 = tl.exp2(logits_0 - top[:, None])
        total = tl.sum(weights_0, 1)
        mixed = tl.dot(weights_0.to(values_0.dtype), values_0, input_precision="ieee")
        if KEYS_1:
            weights_1 = tl.exp2(logits_1 - top[:, None])
            total += tl.sum(weights_1, 1)
            mixed = tl.dot(weights_1.to(values_1.dtype), values_1, mixed, input_precision="ieee")
        if KEYS_2:
            weights_2 = tl.exp2(logits_2 - top[:, None])
            total += tl.sum(weights_2, 1)
            mixed = tl.dot(weights_2.to(values_2.dtype), values_2, mixed, input_precision="ieee")

        _store(out, row, out_row, rows, v_dim, mixed / total[:, None], DV)
        if WITH_LSE:
            tl.store(lse + row, top + tl.log2(total), mask=row < rows)


@triton.jit
def online(
    q,  # arguments as `whole_row`
    k,
    v,
    out,
    lse,
    bias,
    table,
    heads,
    rows,
    tokens,
    q_image,
    q_row,
    kv_image,
    kv_row,
    out_image,
    out_row,
    bias_head,
    bias_row,
    scale_log2,
    KEYS: tl.constexpr,  # at a time
    TILE: tl.constexpr,
    DQ: tl.constexpr,
    DV: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WITH_LSE: tl.constexpr,
):
    """Grid: batch * heads, tiles of queries."""
    head, image = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    qk_first, v_first, qk_dim, v_dim = _columns(table, head)
    q += (image * q_image + qk_first) * GROUP
    k += (image * kv_image + qk_first) * GROUP
    v += (image * kv_image + v_first) * GROUP
    bias += head * (bias_head * GROUP)

    row = tl.program_id(1) * TILE + tl.arange(0, TILE)
    queries = _load(q, row, q_row, rows, qk_dim, DQ)
    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    mixed = tl.zeros([TILE, DV], tl.float32)
    for first in range(0, tokens, KEYS):
        column = first + tl.arange(0, KEYS)
        keys = _load(k, column, kv_row, tokens, qk_dim, DQ)
        logits = _logits(queries, keys, row, column, rows, tokens, scale_log2, bias, bias_row, HAS_BIAS)
        higher = tl.maximum(top, tl.max(logits, 1))
        weights, shrink = tl.exp2(logits - higher[:, None]), tl.exp2(top - higher)
        values = _load(v, column, kv_row, tokens, v_dim, DV)
        mixed = tl.dot(weights.to(values.dtype), values, mixed * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        top = higher
    _store(out + (image * out_image + v_first) * GROUP, row, out_row, rows, v_dim, mixed / total[:, None], DV)
    if WITH_LSE:
        tl.store(lse + (image * heads + head) * rows + row, top + tl.log2(total), mask=row < rows)


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
    q,
    k,
    v,
    out,
    lse,
    bias,
    table,
    grad_out,  # [batch, rows, V], as out
    grad_k,  # [batch, tokens, Q]
    grad_v,  # [batch, tokens, V]
    heads,
    rows,
    tokens,
    q_image,
    q_row,
    kv_image,
    kv_row,
    out_image,
    out_row,
    grad_kv_image,
    grad_kv_row,
    bias_head,
    bias_row,
    scale,
    KEYS: tl.constexpr,
    TILE: tl.constexpr,
    DQ: tl.constexpr,
    DV: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Gradients of a tile of keys and values: grid (batch * heads, tiles of keys), through all queries in order."""
    head, image = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    qk_first, v_first, qk_dim, v_dim = _columns(table, head)
    q += (image * q_image + qk_first) * GROUP
    out += (image * out_image + v_first) * GROUP
    grad_out += (image * out_image + v_first) * GROUP
    lse += (image * heads + head) * rows
    bias += head * (bias_head * GROUP)

    column = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    keys = _load(k + (image * kv_image + qk_first) * GROUP, column, kv_row, tokens, qk_dim, DQ)
    values = _load(v + (image * kv_image + v_first) * GROUP, column, kv_row, tokens, v_dim, DV)
    of_keys = tl.zeros([KEYS, DQ], tl.float32)
    of_values = tl.zeros([KEYS, DV], tl.float32)
    for first in range(0, rows, TILE):
        row = first + tl.arange(0, TILE)
        queries = _load(q, row, q_row, rows, qk_dim, DQ)
        grad = _load(grad_out, row, out_row, rows, v_dim, DV)
        mixed = _load(out, row, out_row, rows, v_dim, DV)
        logits = _logits(queries, keys, row, column, rows, tokens, scale * LOG2_E, bias, bias_row, HAS_BIAS)
        weights = tl.exp2(logits - tl.load(lse + row, mask=row < rows, other=float("inf"))[:, None])
        of_values = tl.dot(tl.trans(weights.to(grad.dtype)), grad, of_values, input_precision="ieee")
        of_logits = _grad_of_logits(weights, grad, mixed, values).to(queries.dtype)
        of_keys = tl.dot(tl.trans(of_logits), queries, of_keys, input_precision="ieee")
    _store(
        grad_k + (image * grad_kv_image + qk_first) * GROUP, column, grad_kv_row, tokens, qk_dim, of_keys * scale, DQ
    )
    _store(grad_v + (image * grad_kv_image + v_first) * GROUP, column, grad_kv_row, tokens, v_dim, of_values, DV)


@triton.jit
def backward_queries(
    q,
    k,
    v,
    out,
    lse,
    bias,
    table,
    grad_out,  # [batch, rows, V], as out
    grad_q,  # [batch, rows, Q]
    heads,
    rows,
    tokens,
    q_image,
    q_row,
    kv_image,
    kv_row,
    out_image,
    out_row,
    grad_q_image,
    grad_q_row,
    bias_head,
    bias_row,
    scale,
    KEYS: tl.constexpr,
    TILE: tl.constexpr,
    DQ: tl.constexpr,
    DV: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Gradients of a tile of queries: grid (batch * heads, tiles of queries), through all keys in order."""
    head, image = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    qk_first, v_first, qk_dim, v_dim = _columns(table, head)
    k += (image * kv_image + qk_first) * GROUP
    v += (image * kv_image + v_first) * GROUP
    bias += head * (bias_head * GROUP)

    row = tl.program_id(1) * TILE + tl.arange(0, TILE)
    queries = _load(q + (image * q_image + qk_first) * GROUP, row, q_row, rows, qk_dim, DQ)
    grad = _load(grad_out + (image * out_image + v_first) * GROUP, row, out_row, rows, v_dim, DV)
    mixed = _load(out + (image * out_image + v_first) * GROUP, row, out_row, rows, v_dim, DV)
    sums = tl.load(lse + (image * heads + head) * rows + row, mask=row < rows, other=float("inf"))
    of_queries = tl.zeros([TILE, DQ], tl.float32)
    for first in range(0, tokens, KEYS):
        column = first + tl.arange(0, KEYS)
        keys = _load(k, column, kv_row, tokens, qk_dim, DQ)
        values = _load(v, column, kv_row, tokens, v_dim, DV)
        logits = _logits(queries, keys, row, column, rows, tokens, scale * LOG2_E, bias, bias_row, HAS_BIAS)
        of_logits = _grad_of_logits(tl.exp2(logits - sums[:, None]), grad, mixed, values).to(keys.dtype)
        of_queries = tl.dot(of_logits, keys, of_queries, input_precision="ieee")
    _store(grad_q + (image * grad_q_image + qk_first) * GROUP, row, grad_q_row, rows, qk_dim, of_queries * scale, DQ)
