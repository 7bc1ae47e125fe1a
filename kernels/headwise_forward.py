"""Fused attention for heads of any number and any width: one launch for a whole layer.

Where a head lies in the packed projection, and how wide it is, stands in a small table on the device, so that one
kernel serves all layers of a model.

For few tokens (`headwise_launch` knows how few), `whole_row` keeps keys and values of a head on the chip and computes
whole rows of logits, so that the softmax needs one pass (Zhai et al., 2023, "ByteTransformer", for heads of one width).
The power of two that holds 197 tokens is 256, and a quarter of it would be waste: the keys are cut into descending
powers of two, 128 + 64 + 16, with one maximum over all. For more, `online` goes through the keys tile by tile and
rescales what it has summed up (Dao et al., 2022, "FlashAttention").

Products are of the inputs' type and accumulate in float32, as does the softmax. Logits are in units of log 2, for exp2.
"""

from __future__ import annotations

import triton
import triton.language as tl

from toolkit.kernels.headwise_tiles import GROUP, columns, load, logits_of, store


@triton.jit
def whole_row(
    q,  # [batch, rows, Q], any distance between rows and images
    k,  # [batch, tokens, Q]
    v,  # [batch, tokens, V]
    out,  # [batch, rows, V]
    lse,  # [batch, heads, rows] float32, log2 of every row's sum; not written unless WITH_LSE
    bias,  # [heads, rows, tokens], its rows filled up to whole groups; not read unless HAS_BIAS
    table,  # see `headwise_tiles.columns`
    heads,  # how many
    rows,  # queries of an image
    q_image,  # distances of images and of rows, in groups
    q_row,
    kv_image,
    kv_row,
    out_image,
    out_row,
    bias_head,  # distances of heads and of rows, in groups
    bias_row,
    scale_log2,  # scale * log2(e)
    TOKENS: tl.constexpr,  # a model has one number of them; whole pieces need no mask then
    KEYS_0: tl.constexpr,  # keys of the pieces, 0 where there is none
    KEYS_1: tl.constexpr,
    KEYS_2: tl.constexpr,
    HOPPER: tl.constexpr,  # its products read keys and values from shared memory: none are to wait in registers
    TILE: tl.constexpr,  # queries at a time
    DQ: tl.constexpr,  # at least the widest head's qk_dim
    DV: tl.constexpr,  # and v_dim
    HAS_BIAS: tl.constexpr,
    WITH_LSE: tl.constexpr,
    LAYOUT: tl.constexpr = None,  # instead of `table`, see there
):
    """Grid: batch * heads, and among how many programs the queries of a head are shared out.

    Heads come first: those of one image run at the same time, and share the cache lines that narrow heads leave half
    unread.
    """
    head, image = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    qk_first, v_first, qk_dim, v_dim = columns(table, head, LAYOUT)
    q += (image * q_image + qk_first) * GROUP
    k += (image * kv_image + qk_first) * GROUP
    v += (image * kv_image + v_first) * GROUP
    out += (image * out_image + v_first) * GROUP
    lse += (image * heads + head) * rows
    bias += head.to(tl.int64) * (bias_head * GROUP)

    column_0 = tl.arange(0, KEYS_0)
    keys_0 = load(k, column_0, kv_row, TOKENS, qk_dim, DQ)
    values_0 = load(v, column_0, kv_row, TOKENS, v_dim, DV)
    if KEYS_1:
        column_1 = KEYS_0 + tl.arange(0, KEYS_1)
        keys_1 = load(k, column_1, kv_row, TOKENS, qk_dim, DQ)
        values_1 = load(v, column_1, kv_row, TOKENS, v_dim, DV)
    if KEYS_2:
        column_2 = KEYS_0 + KEYS_1 + tl.arange(0, KEYS_2)
        keys_2 = load(k, column_2, kv_row, TOKENS, qk_dim, DQ)
        values_2 = load(v, column_2, kv_row, TOKENS, v_dim, DV)

    for first in tl.range(tl.program_id(1) * TILE, rows, tl.num_programs(1) * TILE, disable_licm=HOPPER):
        row = first + tl.arange(0, TILE)
        queries = load(q, row, q_row, rows, qk_dim, DQ)
        logits_0 = logits_of(queries, keys_0, row, column_0, rows, TOKENS, scale_log2, bias, bias_row, HAS_BIAS)
        top = tl.max(logits_0, 1)
        if KEYS_1:
            logits_1 = logits_of(queries, keys_1, row, column_1, rows, TOKENS, scale_log2, bias, bias_row, HAS_BIAS)
            top = tl.maximum(top, tl.max(logits_1, 1))
        if KEYS_2:
            logits_2 = logits_of(queries, keys_2, row, column_2, rows, TOKENS, scale_log2, bias, bias_row, HAS_BIAS)
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

        store(out, row, out_row, rows, v_dim, mixed / total[:, None], DV)
        if WITH_LSE:
            tl.store(lse + row, top + tl.log2(total), mask=row < rows)


@triton.jit
def online(
    q,  # [batch, rows, Q], any distance between rows and images
    k,  # [batch, tokens, Q]
    v,  # [batch, tokens, V]
    out,  # [batch, rows, V]
    lse,  # [batch, heads, rows] float32, log2 of every row's sum; not written unless WITH_LSE
    bias,  # [heads, rows, tokens], its rows filled up to whole groups; not read unless HAS_BIAS
    table,  # see `headwise_tiles.columns`
    heads,  # how many
    rows,  # queries of an image
    tokens,  # keys of an image
    q_image,  # distances of images and of rows, in groups
    q_row,
    kv_image,
    kv_row,
    out_image,
    out_row,
    bias_head,  # distances of heads and of rows, in groups
    bias_row,
    scale_log2,  # scale * log2(e)
    KEYS: tl.constexpr,  # keys at a time
    TILE: tl.constexpr,  # queries of a program
    DQ: tl.constexpr,  # at least the widest head's qk_dim
    DV: tl.constexpr,  # and v_dim
    HAS_BIAS: tl.constexpr,
    WITH_LSE: tl.constexpr,
    LAYOUT: tl.constexpr = None,  # instead of `table`, see there
):
    """Grid: batch * heads, tiles of queries."""
    head, image = tl.program_id(0) % heads, (tl.program_id(0) // heads).to(tl.int64)
    qk_first, v_first, qk_dim, v_dim = columns(table, head, LAYOUT)
    q += (image * q_image + qk_first) * GROUP
    k += (image * kv_image + qk_first) * GROUP
    v += (image * kv_image + v_first) * GROUP
    bias += head.to(tl.int64) * (bias_head * GROUP)

    row = tl.program_id(1) * TILE + tl.arange(0, TILE)
    queries = load(q, row, q_row, rows, qk_dim, DQ)
    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    mixed = tl.zeros([TILE, DV], tl.float32)
    for first in range(0, tokens, KEYS):
        column = first + tl.arange(0, KEYS)
        keys = load(k, column, kv_row, tokens, qk_dim, DQ)
        logits = logits_of(queries, keys, row, column, rows, tokens, scale_log2, bias, bias_row, HAS_BIAS)
        higher = tl.maximum(top, tl.max(logits, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)  # a bias may hide all keys so far
        weights, shrink = tl.exp2(logits - finite[:, None]), tl.exp2(top - finite)
        values = load(v, column, kv_row, tokens, v_dim, DV)
        mixed = tl.dot(weights.to(values.dtype), values, mixed * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        top = higher
    store(out + (image * out_image + v_first) * GROUP, row, out_row, rows, v_dim, mixed / total[:, None], DV)
    if WITH_LSE:
        tl.store(lse + (image * heads + head) * rows + row, top + tl.log2(total), mask=row < rows)


@triton.jit
def layer(
    packed,  # [batch, TOKENS, Q + Q + V]: queries, keys, values; or [batch, TOKENS, Q + V], with `queries`
    queries,  # [batch, ROWS, Q], or None
    bias,  # [heads, ROWS, TOKENS], its rows filled up to whole groups, or None
    out,  # [batch, ROWS, V]
    LAYOUT: tl.constexpr,  # see `headwise_tiles.columns`
    Q: tl.constexpr,  # qk_dim of all heads together, in groups
    V: tl.constexpr,  # v_dim of all heads together, in groups
    ROWS: tl.constexpr,  # queries of an image
    TOKENS: tl.constexpr,  # keys of an image
    BIAS_HEAD: tl.constexpr,  # distance of two heads of the bias, in groups; 0 where they share it
    SCALE_LOG2: tl.constexpr,  # scale * log2(e)
    WHOLE_ROW: tl.constexpr,  # or `online`
    KEYS_0: tl.constexpr,  # of `whole_row` the keys of its pieces; of `online` the keys at a time
    KEYS_1: tl.constexpr,
    KEYS_2: tl.constexpr,
    HOPPER: tl.constexpr,  # of `whole_row`, see there
    TILE: tl.constexpr,  # queries at a time
    DQ: tl.constexpr,  # at least the widest head's qk_dim
    DV: tl.constexpr,  # and v_dim
):
    """Either kernel for one layer alone, which a program without Triton can launch: its arguments are tensors.

    Widths, distances, sizes and the scale are constants of the code, and where the heads lie too: there is no table to
    keep on the device. The batch is in the grid, which is that of `whole_row` or of `online`.
    """
    HEADS: tl.constexpr = len(LAYOUT)
    BIAS_ROW: tl.constexpr = (TOKENS + GROUP - 1) // GROUP
    HAS_BIAS: tl.constexpr = bias is not None
    ITS_Q: tl.constexpr = Q if queries is None else 0
    KV: tl.constexpr = ITS_Q + Q + V
    q = packed if queries is None else queries
    q_row = KV if queries is None else Q
    k = packed + ITS_Q * GROUP
    v = k + Q * GROUP
    added = bias if HAS_BIAS else packed
    if WHOLE_ROW:
        whole_row(
            q, k, v, out, out, added, out, HEADS, ROWS, ROWS * q_row, q_row, TOKENS * KV, KV, ROWS * V, V,
            BIAS_HEAD, BIAS_ROW, SCALE_LOG2, TOKENS, KEYS_0, KEYS_1, KEYS_2, HOPPER, TILE, DQ, DV, HAS_BIAS,
            False, LAYOUT,
        )  # fmt: skip
    else:
        online(
            q, k, v, out, out, added, out, HEADS, ROWS, TOKENS, ROWS * q_row, q_row, TOKENS * KV, KV, ROWS * V, V,
            BIAS_HEAD, BIAS_ROW, SCALE_LOG2, KEYS_0, TILE, DQ, DV, HAS_BIAS, False, LAYOUT,
        )  # fmt: skip
