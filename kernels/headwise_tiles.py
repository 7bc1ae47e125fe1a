"""Tiles of a head as the kernels read and write them, and its logits.

A head is read where it lies in the packed projection and written where the output projection reads it: no permutation,
no padding in memory. Tiles are as wide as the widest head (`DQ`, `DV`) wants them; narrower heads leave some of it
masked, which costs arithmetic but no memory traffic.
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
def columns(
    table,  # [heads, 4] int32, in groups: first of q and k, first of v and out, qk_dim, v_dim
    head,
    LAYOUT: tl.constexpr = None,  # the same as a tuple of tuples, where a kernel is for one layer only
):
    """Where a head lies, in groups, and how wide it is, in units."""
    if LAYOUT is None:
        entry = table + 4 * head
        qk_first, v_first, qk_dim, v_dim = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2), tl.load(entry + 3)
    else:
        qk_first, v_first, qk_dim, v_dim = LAYOUT[0][0], LAYOUT[0][1], LAYOUT[0][2], LAYOUT[0][3]
        for index in tl.static_range(1, len(LAYOUT)):
            qk_first = tl.where(head == index, LAYOUT[index][0], qk_first)
            v_first = tl.where(head == index, LAYOUT[index][1], v_first)
            qk_dim = tl.where(head == index, LAYOUT[index][2], qk_dim)
            v_dim = tl.where(head == index, LAYOUT[index][3], v_dim)
    return qk_first, v_first, qk_dim * GROUP, v_dim * GROUP


@triton.jit
def _places(
    base,  # the head's first unit
    row,  # [rows] which of them
    row_stride,  # distance of two, in groups
    COLUMNS: tl.constexpr,  # width of the tile
):
    """Pointers [rows, COLUMNS] from the first unit of a head on."""
    return base + row[:, None] * (row_stride * GROUP) + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def _there(
    row,  # [rows] which of them
    count,  # how many the tensor has
    width,  # units of the head
    COLUMNS: tl.constexpr,  # width of the tile
):
    """[rows, COLUMNS]: which of them the tensor and the head really have."""
    return (row[:, None] < count) & (tl.arange(0, COLUMNS)[None, :] < width)


@triton.jit
def load(
    base,  # arguments as `_places` and `_there`
    row,
    row_stride,
    count,
    width,
    COLUMNS: tl.constexpr,
):
    """[rows, COLUMNS] of a head, zeros for what is not there: whatever lies there, NaN too, is not read."""
    return tl.load(_places(base, row, row_stride, COLUMNS), mask=_there(row, count, width, COLUMNS), other=0.0)


@triton.jit
def store(
    base,  # arguments as `_places` and `_there`
    row,
    row_stride,
    count,
    width,
    values,  # [rows, COLUMNS] float32
    COLUMNS: tl.constexpr,
):
    """Write what there is of [rows, COLUMNS] of a head, and nothing beside it."""
    places = _places(base, row, row_stride, COLUMNS)
    tl.store(places, values.to(base.dtype.element_ty), mask=_there(row, count, width, COLUMNS))


@triton.jit
def logits_of(
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
