"""Head widths: the vocabulary that every kernel file shares. Imports neither torch nor triton."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

Heads = Sequence[tuple[int, int]]
"""(qk_dim, v_dim) of each head, in memory order."""

MAX_HEAD_DIM = 128
"""Largest qk_dim or v_dim that the kernels support."""
ALIGNMENT = 8
"""The kernels need head widths that are multiples of this: 8 half-precision elements are one 16-byte load."""


def unsupported(heads: Heads) -> str:
    """Reason why the kernels do not support heads of these widths; empty if they do."""
    if misaligned(heads):
        return f"not all head widths are multiples of {ALIGNMENT}"
    return f"a head is wider than {MAX_HEAD_DIM}" if max(map(max, heads)) > MAX_HEAD_DIM else ""


def misaligned(heads: Heads) -> bool:
    """Whether a width is not a multiple of `ALIGNMENT`."""
    return any(width % ALIGNMENT for head in heads for width in head)


def total_widths(heads: Heads) -> tuple[int, int]:
    """(Q, V): sums of the heads' qk_dim and v_dim."""
    return sum(qk for qk, _ in heads), sum(v for _, v in heads)


def head_table(heads: Heads) -> tuple[tuple[int, ...], ...]:
    """(q and k offset, v offset, qk_dim, v_dim) of each head, in units of `ALIGNMENT` elements."""
    qk_offsets, v_offsets = ([0, *accumulate(dims)] for dims in zip(*heads, strict=True))
    return tuple(
        tuple(elements // ALIGNMENT for elements in (qk_offsets[index], v_offsets[index], *head))
        for index, head in enumerate(heads)
    )
