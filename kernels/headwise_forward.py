"""Fused attention for heads of any number and width: one launch per layer.

A small table on the device holds each head's offset and width in the packed projection, so one compiled kernel serves
all layers of a model.

`whole_row`, for few keys (see `headwise_settings`), keeps a head's keys and values on the chip and computes whole rows
of logits, so the softmax needs one pass (Zhai et al., 2023, "ByteTransformer", for heads of one width). The next power
of two of 197 keys is 256, of which a quarter would be padding: keys are split into chunks of descending powers of two,
128 + 64 + 16, with one maximum over all. `online`, for more keys, iterates over blocks of keys and rescales its
accumulators (Dao et al., 2022, "FlashAttention").

Products take the input dtype and accumulate in float32; the softmax is float32. Logits are base 2, for exp2.

Arguments: strides are in units of `VECTOR` elements; the last dimension of every tensor is contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl

from toolkit.kernels.headwise_tiles import VECTOR, load, locate_head, logits_of, store


@triton.jit
def whole_row(
    q,  # [batch, queries, Q]
    k,  # [batch, keys, Q]
    v,  # [batch, keys, V], with the strides of k
    out,  # [batch, queries, V]
    lse,  # [batch, heads, queries] float32: base-2 log-sum-exp; written if WITH_LSE
    bias,  # [heads, queries, keys], rows padded to a multiple of VECTOR; read if HAS_BIAS
    key_bias,  # [batch, keys] float32; read if HAS_KEY_BIAS
    table,  # [heads, 4] int32, see `heads.head_table`
    num_heads,
    num_queries,
    stride_q_batch,
    stride_q_token,
    stride_kv_batch,
    stride_kv_token,
    stride_out_batch,
    stride_out_token,
    stride_bias_head,
    stride_bias_query,
    stride_key_bias_batch,  # in elements
    scale_log2,  # scale * log2(e)
    NUM_KEYS: tl.constexpr,  # constant in a model; full chunks need no mask
    CHUNK_0: tl.constexpr,  # keys per chunk; 0 if there is no such chunk
    CHUNK_1: tl.constexpr,
    CHUNK_2: tl.constexpr,
    HOPPER: tl.constexpr,  # tensor cores read k and v from shared memory: do not hoist them into registers
    BLOCK_Q: tl.constexpr,  # queries per iteration
    DIM_QK: tl.constexpr,  # tile width of q and k, at least the widest qk_dim
    DIM_V: tl.constexpr,  # tile width of v, at least the widest v_dim
    HAS_BIAS: tl.constexpr,
    HAS_KEY_BIAS: tl.constexpr,
    WITH_LSE: tl.constexpr,
    LAYOUT: tl.constexpr = None,  # replaces `table`, see `headwise_tiles.locate_head`
):
    """Grid: (batch * heads, splits of a head's queries).

    Heads vary fastest: those of an image run at the same time and share the cache lines that narrow heads read in part.
    """
    head, image = tl.program_id(0) % num_heads, (tl.program_id(0) // num_heads).to(tl.int64)
    qk_offset, v_offset, qk_dim, v_dim = locate_head(table, head, LAYOUT)
    q += (image * stride_q_batch + qk_offset) * VECTOR
    k += (image * stride_kv_batch + qk_offset) * VECTOR
    v += (image * stride_kv_batch + v_offset) * VECTOR
    out += (image * stride_out_batch + v_offset) * VECTOR
    lse += (image * num_heads + head) * num_queries
    bias += head.to(tl.int64) * (stride_bias_head * VECTOR)
    key_bias += image * stride_key_bias_batch

    key_0 = tl.arange(0, CHUNK_0)
    k_0 = load(k, key_0, stride_kv_token, NUM_KEYS, qk_dim, DIM_QK)
    v_0 = load(v, key_0, stride_kv_token, NUM_KEYS, v_dim, DIM_V)
    if CHUNK_1:
        key_1 = CHUNK_0 + tl.arange(0, CHUNK_1)
        k_1 = load(k, key_1, stride_kv_token, NUM_KEYS, qk_dim, DIM_QK)
        v_1 = load(v, key_1, stride_kv_token, NUM_KEYS, v_dim, DIM_V)
    if CHUNK_2:
        key_2 = CHUNK_0 + CHUNK_1 + tl.arange(0, CHUNK_2)
        k_2 = load(k, key_2, stride_kv_token, NUM_KEYS, qk_dim, DIM_QK)
        v_2 = load(v, key_2, stride_kv_token, NUM_KEYS, v_dim, DIM_V)

    for first in tl.range(tl.program_id(1) * BLOCK_Q, num_queries, tl.num_programs(1) * BLOCK_Q, disable_licm=HOPPER):
        query = first + tl.arange(0, BLOCK_Q)
        q_block = load(q, query, stride_q_token, num_queries, qk_dim, DIM_QK)
        logits_0 = logits_of(
            q_block, k_0, query, key_0, num_queries, NUM_KEYS, scale_log2, bias, stride_bias_query,
            key_bias, HAS_BIAS, HAS_KEY_BIAS,
        )  # fmt: skip
        row_max = tl.max(logits_0, 1)
        if CHUNK_1:
            logits_1 = logits_of(
                q_block, k_1, query, key_1, num_queries, NUM_KEYS, scale_log2, bias, stride_bias_query,
                key_bias, HAS_BIAS, HAS_KEY_BIAS,
            )  # fmt: skip
            row_max = tl.maximum(row_max, tl.max(logits_1, 1))
        if CHUNK_2:
            logits_2 = logits_of(
                q_block, k_2, query, key_2, num_queries, NUM_KEYS, scale_log2, bias, stride_bias_query,
                key_bias, HAS_BIAS, HAS_KEY_BIAS,
            )  # fmt: skip
            row_max = tl.maximum(row_max, tl.max(logits_2, 1))

        probs_0 = tl.exp2(logits_0 - row_max[:, None])
        row_sum = tl.sum(probs_0, 1)
        acc = tl.dot(probs_0.to(v_0.dtype), v_0, input_precision="ieee")
        if CHUNK_1:
            probs_1 = tl.exp2(logits_1 - row_max[:, None])
            row_sum += tl.sum(probs_1, 1)
            acc = tl.dot(probs_1.to(v_1.dtype), v_1, acc, input_precision="ieee")
        if CHUNK_2:
            probs_2 = tl.exp2(logits_2 - row_max[:, None])
            row_sum += tl.sum(probs_2, 1)
            acc = tl.dot(probs_2.to(v_2.dtype), v_2, acc, input_precision="ieee")

        store(out, query, stride_out_token, num_queries, v_dim, acc / row_sum[:, None], DIM_V)
        if WITH_LSE:
            tl.store(lse + query, row_max + tl.log2(row_sum), mask=query < num_queries)


@triton.jit
def _attend(
    acc,  # [block_q, DIM_V] float32: sum of v, weighted with exp2(logits - row_max)
    row_sum,  # [block_q] float32: sum of the weights
    row_max,  # [block_q] float32: largest logit
    q_block,  # [block_q, DIM_QK]
    k,
    v,
    query,  # [block_q] query indices
    key,  # [block_k] key indices
    num_queries,
    num_keys,
    stride_kv_token,
    qk_dim,
    v_dim,
    scale_log2,
    bias,
    stride_bias_query,
    key_bias,
    DIM_QK: tl.constexpr,
    DIM_V: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_KEY_BIAS: tl.constexpr,
    INSIDE: tl.constexpr,  # whether all keys are known to be inside the tensor
):
    """(acc, row_sum, row_max) with a block of keys added."""
    k_block = load(k, key, stride_kv_token, num_keys, qk_dim, DIM_QK, INSIDE)
    logits = logits_of(
        q_block, k_block, query, key, num_queries, num_keys, scale_log2, bias, stride_bias_query,
        key_bias, HAS_BIAS, HAS_KEY_BIAS, INSIDE,
    )  # fmt: skip
    new_max = tl.maximum(row_max, tl.max(logits, 1))
    finite = new_max
    if HAS_BIAS or HAS_KEY_BIAS:
        finite = tl.where(new_max == float("-inf"), 0.0, new_max)  # a bias may mask every key so far
    probs, rescale = tl.exp2(logits - finite[:, None]), tl.exp2(row_max - finite)
    v_block = load(v, key, stride_kv_token, num_keys, v_dim, DIM_V, INSIDE)
    acc = tl.dot(probs.to(v_block.dtype), v_block, acc * rescale[:, None], input_precision="ieee")
    return acc, row_sum * rescale + tl.sum(probs, 1), new_max


@triton.jit
def online(
    q,  # [batch, queries, Q]
    k,  # [batch, keys, Q]
    v,  # [batch, keys, V], with the strides of k
    out,  # [batch, queries, V]
    lse,  # [batch, heads, queries] float32: base-2 log-sum-exp; written if WITH_LSE
    bias,  # [heads, queries, keys], rows padded to a multiple of VECTOR; read if HAS_BIAS
    key_bias,  # [batch, keys] float32; read if HAS_KEY_BIAS
    table,  # [heads, 4] int32, see `heads.head_table`
    num_heads,
    num_queries,
    num_keys,
    stride_q_batch,
    stride_q_token,
    stride_kv_batch,
    stride_kv_token,
    stride_out_batch,
    stride_out_token,
    stride_bias_head,
    stride_bias_query,
    stride_key_bias_batch,  # in elements
    scale_log2,  # scale * log2(e)
    BLOCK_K: tl.constexpr,  # keys per iteration
    BLOCK_Q: tl.constexpr,  # queries per program
    DIM_QK: tl.constexpr,  # tile width of q and k, at least the widest qk_dim
    DIM_V: tl.constexpr,  # tile width of v, at least the widest v_dim
    HAS_BIAS: tl.constexpr,
    HAS_KEY_BIAS: tl.constexpr,
    WITH_LSE: tl.constexpr,
    LAYOUT: tl.constexpr = None,  # replaces `table`, see `headwise_tiles.locate_head`
):
    """Grid: (batch * heads, blocks of queries)."""
    head, image = tl.program_id(0) % num_heads, (tl.program_id(0) // num_heads).to(tl.int64)
    qk_offset, v_offset, qk_dim, v_dim = locate_head(table, head, LAYOUT)
    q += (image * stride_q_batch + qk_offset) * VECTOR
    k += (image * stride_kv_batch + qk_offset) * VECTOR
    v += (image * stride_kv_batch + v_offset) * VECTOR
    out += (image * stride_out_batch + v_offset) * VECTOR
    bias += head.to(tl.int64) * (stride_bias_head * VECTOR)
    key_bias += image * stride_key_bias_batch

    query = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    q_block = load(q, query, stride_q_token, num_queries, qk_dim, DIM_QK)
    row_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, DIM_V], tl.float32)
    whole = num_keys // BLOCK_K * BLOCK_K  # the keys of whole blocks, which need no mask
    for first in range(0, whole, BLOCK_K):
        acc, row_sum, row_max = _attend(
            acc, row_sum, row_max, q_block, k, v, query, first + tl.arange(0, BLOCK_K), num_queries, num_keys,
            stride_kv_token, qk_dim, v_dim, scale_log2, bias, stride_bias_query, key_bias, DIM_QK, DIM_V, HAS_BIAS,
            HAS_KEY_BIAS, True,
        )  # fmt: skip
    if whole < num_keys:
        acc, row_sum, row_max = _attend(
            acc, row_sum, row_max, q_block, k, v, query, whole + tl.arange(0, BLOCK_K), num_queries, num_keys,
            stride_kv_token, qk_dim, v_dim, scale_log2, bias, stride_bias_query, key_bias, DIM_QK, DIM_V, HAS_BIAS,
            HAS_KEY_BIAS, False,
        )  # fmt: skip
    store(out, query, stride_out_token, num_queries, v_dim, acc / row_sum[:, None], DIM_V)
    if WITH_LSE:
        lse += (image * num_heads + head) * num_queries
        tl.store(lse + query, row_max + tl.log2(row_sum), mask=query < num_queries)


@triton.jit
def layer(
    packed,  # [batch, NUM_KEYS, Q + Q + V]: q, k, v; or, with `queries`, [batch, NUM_KEYS, Q + V]: k, v
    queries,  # [batch, NUM_QUERIES, Q], or None
    bias,  # [heads, NUM_QUERIES, NUM_KEYS], rows padded to a multiple of VECTOR, or None
    key_bias,  # [batch, NUM_KEYS] float32, or None
    out,  # [batch, NUM_QUERIES, V]
    LAYOUT: tl.constexpr,  # see `headwise_tiles.locate_head`
    Q: tl.constexpr,  # sum of the heads' qk_dim, in units of VECTOR
    V: tl.constexpr,  # sum of the heads' v_dim, in units of VECTOR
    NUM_QUERIES: tl.constexpr,
    NUM_KEYS: tl.constexpr,
    STRIDE_BIAS_HEAD: tl.constexpr,  # in units of VECTOR; 0 if all heads share the bias
    SCALE_LOG2: tl.constexpr,  # scale * log2(e)
    WHOLE_ROW: tl.constexpr,  # else `online`
    CHUNK_0: tl.constexpr,  # `whole_row`: its chunks; `online`: BLOCK_K in CHUNK_0
    CHUNK_1: tl.constexpr,
    CHUNK_2: tl.constexpr,
    HOPPER: tl.constexpr,  # of `whole_row`
    BLOCK_Q: tl.constexpr,
    DIM_QK: tl.constexpr,
    DIM_V: tl.constexpr,
):
    """Either kernel specialised for one layer, for programs without Triton: the only arguments are tensors.

    Widths, strides, sizes, scale and head offsets are constants of the code: there is no table to keep on the device.
    The grid is that of `whole_row` or of `online`.
    """
    HEADS: tl.constexpr = len(LAYOUT)
    BIAS_QUERY: tl.constexpr = (NUM_KEYS + VECTOR - 1) // VECTOR
    HAS_BIAS: tl.constexpr = bias is not None
    HAS_KEY_BIAS: tl.constexpr = key_bias is not None
    PACKED_Q: tl.constexpr = Q if queries is None else 0
    KV: tl.constexpr = PACKED_Q + Q + V
    q = packed if queries is None else queries
    stride_q = KV if queries is None else Q
    k = packed + PACKED_Q * VECTOR
    v = k + Q * VECTOR
    bias_or_any = bias if HAS_BIAS else packed
    key_bias_or_any = key_bias if HAS_KEY_BIAS else packed
    if WHOLE_ROW:
        whole_row(
            q, k, v, out, out, bias_or_any, key_bias_or_any, out, HEADS, NUM_QUERIES, NUM_QUERIES * stride_q, stride_q,
            NUM_KEYS * KV, KV, NUM_QUERIES * V, V, STRIDE_BIAS_HEAD, BIAS_QUERY, NUM_KEYS, SCALE_LOG2, NUM_KEYS,
            CHUNK_0, CHUNK_1, CHUNK_2, HOPPER, BLOCK_Q, DIM_QK, DIM_V, HAS_BIAS, HAS_KEY_BIAS, False, LAYOUT,
        )  # fmt: skip
    else:
        online(
            q, k, v, out, out, bias_or_any, key_bias_or_any, out, HEADS, NUM_QUERIES, NUM_KEYS,
            NUM_QUERIES * stride_q, stride_q, NUM_KEYS * KV, KV, NUM_QUERIES * V, V, STRIDE_BIAS_HEAD, BIAS_QUERY,
            NUM_KEYS, SCALE_LOG2, CHUNK_0, BLOCK_Q, DIM_QK, DIM_V, HAS_BIAS, HAS_KEY_BIAS, False, LAYOUT,
        )  # fmt: skip
