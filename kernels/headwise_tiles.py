"""Loading and storing tiles of a head, and its logits: the parts that the kernels share.

Heads are read from the packed projection and written to the output projection's input in place: no permutation, no
padding in memory. Tiles are as wide as the widest head needs (`DIM_QK`, `DIM_V`); for narrower heads the rest is
masked, which costs arithmetic but no memory traffic.

Strides and offsets are in units of `VECTOR` elements, so that the compiler sees multiples of 8: with an arbitrary
stride it would load element by element.
"""

from __future__ import annotations

import triton
import triton.language as tl

from toolkit.kernels.heads import ALIGNMENT

LOG2_E = tl.constexpr(1.4426950408889634)
VECTOR = tl.constexpr(ALIGNMENT)
"""Elements of one 16-byte load."""


@triton.jit
def locate_head(
    table,  # [heads, 4] int32, see `heads.head_table`
    head,  # index of the head
    LAYOUT: tl.constexpr = None,  # the table as a tuple of tuples, for a kernel that is compiled for one layer
):
    """(offset of q and k, offset of v and out), in units of VECTOR, and (qk_dim, v_dim), in elements."""
    if LAYOUT is None:
        entry = table + 4 * head
        qk_offset, v_offset = tl.load(entry), tl.load(entry + 1)
        qk_dim, v_dim = tl.load(entry + 2), tl.load(entry + 3)
    else:
        qk_offset, v_offset, qk_dim, v_dim = LAYOUT[0][0], LAYOUT[0][1], LAYOUT[0][2], LAYOUT[0][3]
        for index in tl.static_range(1, len(LAYOUT)):
            qk_offset = tl.where(head == index, LAYOUT[index][0], qk_offset)
            v_offset = tl.where(head == index, LAYOUT[index][1], v_offset)
            qk_dim = tl.where(head == index, LAYOUT[index][2], qk_dim)
            v_dim = tl.where(head == index, LAYOUT[index][3], v_dim)
    return qk_offset, v_offset, qk_dim * VECTOR, v_dim * VECTOR


@triton.jit
def _pointers(
    base,  # pointer to the head's first element
    token,  # [block] token indices
    stride,  # token stride, in units of VECTOR
    DIM: tl.constexpr,  # tile width
):
    """Pointers [block, DIM] to the elements of a tile."""
    return base + token[:, None] * (stride * VECTOR) + tl.arange(0, DIM)[None, :]


@triton.jit
def _mask(
    token,  # [block] token indices
    num_tokens,  # tokens of the tensor
    width,  # elements of the head
    DIM: tl.constexpr,  # tile width
):
    """[block, DIM]: which elements of a tile are inside the tensor and the head."""
    return (token[:, None] < num_tokens) & (tl.arange(0, DIM)[None, :] < width)


@triton.jit
def load(
    base,  # arguments as `_pointers` and `_mask`
    token,
    stride,
    num_tokens,
    width,
    DIM: tl.constexpr,
    INSIDE: tl.constexpr = False,  # whether all tokens are known to be inside the tensor
):
    """Tile [block, DIM] of a head, zero outside of tensor and head; memory there is not read."""
    mask = tl.arange(0, DIM)[None, :] < width if INSIDE else _mask(token, num_tokens, width, DIM)
    return tl.load(_pointers(base, token, stride, DIM), mask=mask, other=0.0)


@triton.jit
def store(
    base,  # arguments as `_pointers` and `_mask`
    token,
    stride,
    num_tokens,
    width,
    values,  # [block, DIM] float32
    DIM: tl.constexpr,
):
    """Store the part of a tile [block, DIM] that is inside tensor and head."""
    pointers = _pointers(base, token, stride, DIM)
    tl.store(pointers, values.to(base.dtype.element_ty), mask=_mask(token, num_tokens, width, DIM))


@triton.jit
def logits_of(
    q,  # [block_q, DIM_QK]
    k,  # [block_k, DIM_QK]
    query,  # [block_q] query indices
    key,  # [block_k] key indices
    num_queries,
    num_keys,
    scale_log2,  # scale * log2(e)
    bias,  # pointer to the head's bias [queries, keys], rows padded to a multiple of VECTOR
    stride_bias_query,  # in units of VECTOR
    key_bias,  # pointer to the image's key_bias [keys] float32
    HAS_BIAS: tl.constexpr,
    HAS_KEY_BIAS: tl.constexpr,
    INSIDE: tl.constexpr = False,  # whether all keys are known to be inside the tensor
):
    """Base-2 logits [block_q, block_k] float32, -inf for keys outside the tensor."""
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    if HAS_BIAS:
        inside = (query[:, None] < num_queries) & (key[None, :] < tl.cdiv(num_keys, VECTOR) * VECTOR)
        pointers = bias + query[:, None] * (stride_bias_query * VECTOR) + key[None, :]
        logits += tl.load(pointers, mask=inside, other=0.0).to(tl.float32) * LOG2_E
    if HAS_KEY_BIAS:
        logits += tl.load(key_bias + key, mask=key < num_keys, other=0.0)[None, :] * LOG2_E
    return logits if INSIDE else tl.where(key[None, :] < num_keys, logits, float("-inf"))
