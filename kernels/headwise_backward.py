"""Gradients of `headwise_forward`: one kernel for keys and values, one for queries.

Attention weights are recomputed from the log-sum-exp (Dao et al., 2022, "FlashAttention", algorithm 4). One program
writes each element of a gradient, in a fixed order: no atomics, bitwise reproducible.

Arguments: strides are in units of `VECTOR` elements; the last dimension of every tensor is contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl

from toolkit.kernels.headwise_tiles import LOG2_E, VECTOR, load, locate_head, logits_of, store


@triton.jit
def _logits_gradient(
    probs,  # [block_q, block_k]
    grad_out,  # [block_q, DIM_V]
    out,  # [block_q, DIM_V]
    v,  # [block_k, DIM_V]
):
    """p * (dL/dp - sum over the keys of p dL/dp), where that sum is the dot product of output and its gradient."""
    delta = tl.sum(grad_out.to(tl.float32) * out.to(tl.float32), 1)
    return probs * (tl.dot(grad_out, tl.trans(v), input_precision="ieee") - delta[:, None])


@triton.jit
def backward_keys(
    q,  # [batch, queries, Q]
    k,  # [batch, keys, Q]
    v,  # [batch, keys, V], with the strides of k
    out,  # [batch, queries, V], from the forward pass
    lse,  # [batch, heads, queries] float32: base-2 log-sum-exp, from the forward pass
    bias,  # [heads, queries, keys], rows padded to a multiple of VECTOR; read if HAS_BIAS
    key_bias,  # [batch, keys] float32; read if HAS_KEY_BIAS
    table,  # [heads, 4] int32, see `heads.head_table`
    grad_out,  # [batch, queries, V], with the strides of out
    grad_k,  # [batch, keys, Q]
    grad_v,  # [batch, keys, V], with the strides of grad_k
    num_heads,
    num_queries,
    num_keys,
    stride_q_batch,
    stride_q_token,
    stride_kv_batch,
    stride_kv_token,
    stride_out_batch,
    stride_out_token,
    stride_grad_kv_batch,
    stride_grad_kv_token,
    stride_bias_head,
    stride_bias_query,
    stride_key_bias_batch,  # in elements
    scale,
    BLOCK_K: tl.constexpr,  # keys per program
    BLOCK_Q: tl.constexpr,  # queries per iteration
    DIM_QK: tl.constexpr,  # tile width of q and k, at least the widest qk_dim
    DIM_V: tl.constexpr,  # tile width of v, at least the widest v_dim
    HAS_BIAS: tl.constexpr,
    HAS_KEY_BIAS: tl.constexpr,
):
    """Gradients of a block of keys and values, accumulated over all queries. Grid: (batch * heads, blocks of keys)."""
    head, image = tl.program_id(0) % num_heads, (tl.program_id(0) // num_heads).to(tl.int64)
    qk_offset, v_offset, qk_dim, v_dim = locate_head(table, head)
    q += (image * stride_q_batch + qk_offset) * VECTOR
    k += (image * stride_kv_batch + qk_offset) * VECTOR
    v += (image * stride_kv_batch + v_offset) * VECTOR
    out += (image * stride_out_batch + v_offset) * VECTOR
    grad_out += (image * stride_out_batch + v_offset) * VECTOR
    grad_k += (image * stride_grad_kv_batch + qk_offset) * VECTOR
    grad_v += (image * stride_grad_kv_batch + v_offset) * VECTOR
    lse += (image * num_heads + head) * num_queries
    bias += head.to(tl.int64) * (stride_bias_head * VECTOR)
    key_bias += image * stride_key_bias_batch

    key = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    k_block = load(k, key, stride_kv_token, num_keys, qk_dim, DIM_QK)
    v_block = load(v, key, stride_kv_token, num_keys, v_dim, DIM_V)
    acc_k = tl.zeros([BLOCK_K, DIM_QK], tl.float32)
    acc_v = tl.zeros([BLOCK_K, DIM_V], tl.float32)
    for first in range(0, num_queries, BLOCK_Q):
        query = first + tl.arange(0, BLOCK_Q)
        q_block = load(q, query, stride_q_token, num_queries, qk_dim, DIM_QK)
        grad_block = load(grad_out, query, stride_out_token, num_queries, v_dim, DIM_V)
        out_block = load(out, query, stride_out_token, num_queries, v_dim, DIM_V)
        logits = logits_of(
            q_block, k_block, query, key, num_queries, num_keys, scale * LOG2_E, bias, stride_bias_query,
            key_bias, HAS_BIAS, HAS_KEY_BIAS,
        )  # fmt: skip
        lse_block = tl.load(lse + query, mask=query < num_queries, other=float("inf"))
        probs = tl.exp2(logits - lse_block[:, None])
        acc_v = tl.dot(tl.trans(probs.to(grad_block.dtype)), grad_block, acc_v, input_precision="ieee")
        grad_logits = _logits_gradient(probs, grad_block, out_block, v_block).to(q_block.dtype)
        acc_k = tl.dot(tl.trans(grad_logits), q_block, acc_k, input_precision="ieee")
    store(grad_k, key, stride_grad_kv_token, num_keys, qk_dim, acc_k * scale, DIM_QK)
    store(grad_v, key, stride_grad_kv_token, num_keys, v_dim, acc_v, DIM_V)


@triton.jit
def backward_queries(
    q,  # [batch, queries, Q]
    k,  # [batch, keys, Q]
    v,  # [batch, keys, V], with the strides of k
    out,  # [batch, queries, V], from the forward pass
    lse,  # [batch, heads, queries] float32: base-2 log-sum-exp, from the forward pass
    bias,  # [heads, queries, keys], rows padded to a multiple of VECTOR; read if HAS_BIAS
    key_bias,  # [batch, keys] float32; read if HAS_KEY_BIAS
    table,  # [heads, 4] int32, see `heads.head_table`
    grad_out,  # [batch, queries, V], with the strides of out
    grad_q,  # [batch, queries, Q]
    num_heads,
    num_queries,
    num_keys,
    stride_q_batch,
    stride_q_token,
    stride_kv_batch,
    stride_kv_token,
    stride_out_batch,
    stride_out_token,
    stride_grad_q_batch,
    stride_grad_q_token,
    stride_bias_head,
    stride_bias_query,
    stride_key_bias_batch,  # in elements
    scale,
    BLOCK_K: tl.constexpr,  # keys per iteration
    BLOCK_Q: tl.constexpr,  # queries per program
    DIM_QK: tl.constexpr,  # tile width of q and k, at least the widest qk_dim
    DIM_V: tl.constexpr,  # tile width of v, at least the widest v_dim
    HAS_BIAS: tl.constexpr,
    HAS_KEY_BIAS: tl.constexpr,
):
    """Gradient of a block of queries, accumulated over all keys. Grid: (batch * heads, blocks of queries)."""
    head, image = tl.program_id(0) % num_heads, (tl.program_id(0) // num_heads).to(tl.int64)
    qk_offset, v_offset, qk_dim, v_dim = locate_head(table, head)
    q += (image * stride_q_batch + qk_offset) * VECTOR
    k += (image * stride_kv_batch + qk_offset) * VECTOR
    v += (image * stride_kv_batch + v_offset) * VECTOR
    out += (image * stride_out_batch + v_offset) * VECTOR
    grad_out += (image * stride_out_batch + v_offset) * VECTOR
    grad_q += (image * stride_grad_q_batch + qk_offset) * VECTOR
    lse += (image * num_heads + head) * num_queries
    bias += head.to(tl.int64) * (stride_bias_head * VECTOR)
    key_bias += image * stride_key_bias_batch

    query = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    q_block = load(q, query, stride_q_token, num_queries, qk_dim, DIM_QK)
    grad_block = load(grad_out, query, stride_out_token, num_queries, v_dim, DIM_V)
    out_block = load(out, query, stride_out_token, num_queries, v_dim, DIM_V)
    lse_block = tl.load(lse + query, mask=query < num_queries, other=float("inf"))
    acc = tl.zeros([BLOCK_Q, DIM_QK], tl.float32)
    for first in range(0, num_keys, BLOCK_K):
        key = first + tl.arange(0, BLOCK_K)
        k_block = load(k, key, stride_kv_token, num_keys, qk_dim, DIM_QK)
        v_block = load(v, key, stride_kv_token, num_keys, v_dim, DIM_V)
        logits = logits_of(
            q_block, k_block, query, key, num_queries, num_keys, scale * LOG2_E, bias, stride_bias_query,
            key_bias, HAS_BIAS, HAS_KEY_BIAS,
        )  # fmt: skip
        probs = tl.exp2(logits - lse_block[:, None])
        grad_logits = _logits_gradient(probs, grad_block, out_block, v_block).to(k_block.dtype)
        acc = tl.dot(grad_logits, k_block, acc, input_precision="ieee")
    store(grad_q, query, stride_grad_q_token, num_queries, qk_dim, acc * scale, DIM_QK)
