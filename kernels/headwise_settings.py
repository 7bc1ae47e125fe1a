"""Which kernel computes a layer, and for which sizes it is compiled.

What was measured on a GPU is looked up (`tuned`); these rules hold elsewhere. They are such that nothing spills to
memory, and that shared memory suffices; what that was found out with is `machine_code`.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Literal, NamedTuple

import triton

from toolkit.kernels.headwise_attention import ALIGNMENT, Heads

Settings = dict[str, int]
"""What a kernel is compiled for: its constants, and the compiler's options."""
HOPPER = 90
"""Compute capability, times ten, of the GPU whose products read both factors from shared memory."""
WHOLE_ROW_TOKENS, WHOLE_ROW_TOKENS_ON_HOPPER = 208, 320
WHOLE_ROW_WIDTH = 64
"""Up to so many tokens and units of the widest head, a row of logits, the keys and the values fit on the chip. With a
bias, a row of which takes as many registers as one of logits, Hopper holds no more than the others."""
SMALLEST = 16
"""Rows, columns and depth of the smallest product that tensor cores take."""
PIECES = 3
"""Into how many powers of two the keys are cut at most."""


class Work(NamedTuple):
    """What a kernel is to compute."""

    kind: Literal["forward", "backward_keys", "backward_queries"]
    tokens: int
    """Keys; there may be fewer queries."""
    heads: tuple[tuple[int, int], ...]
    has_bias: bool = False
    with_lse: bool = False
    """The forward pass writes what the backward pass needs."""

    @property
    def tiles(self) -> tuple[int, int]:
        """Widths of tiles that hold queries and keys, and values, of every head."""
        qk, v = (max(SMALLEST, triton.next_power_of_2(max(dims))) for dims in zip(*self.heads, strict=True))
        return qk, v


class Plan(NamedTuple):
    """How it is computed."""

    kernel: str
    settings: Settings


def by_rule(work: Work, capability: int) -> Plan:
    """What is known to compile well on GPUs of this compute capability, times ten."""
    kernel = _forward_kernel(work, capability) if work.kind == "forward" else work.kind
    return Plan(kernel, {**constants(work, kernel, capability), **_sizes(work, kernel, capability)})


def constants(work: Work, kernel: str, capability: int) -> Settings:
    """The part of a kernel's settings that follows from the work."""
    dq, dv = work.tiles
    found = {"DQ": dq, "DV": dv, "HAS_BIAS": work.has_bias, "enable_fp_fusion": True}
    if work.kind == "forward":
        found["WITH_LSE"] = work.with_lse
    if kernel == "whole_row":
        cut = zip(("KEYS_0", "KEYS_1", "KEYS_2"), (*pieces(work.tokens), 0, 0), strict=False)
        found |= {"TOKENS": work.tokens, "HOPPER": capability == HOPPER, **dict(cut)}
    return found


def _forward_kernel(work: Work, capability: int) -> str:
    roomy = capability == HOPPER and not work.has_bias
    most = WHOLE_ROW_TOKENS_ON_HOPPER if roomy else WHOLE_ROW_TOKENS
    return "whole_row" if work.tokens <= most and max(work.tiles) <= WHOLE_ROW_WIDTH else "online"


def _sizes(work: Work, kernel: str, capability: int) -> Settings:
    width = max(work.tiles)
    wide = width > WHOLE_ROW_WIDTH
    if kernel == "online":
        few = wide or (work.has_bias and capability != HOPPER)
        keys = 128 if width == SMALLEST else 32 if few else 64
        return {"TILE": 64, "KEYS": keys, "num_warps": 4, "num_stages": 2}
    if kernel != "whole_row":
        return {"TILE": 32 if wide else 64, "KEYS": 32, "num_warps": 4, "num_stages": 1}
    if not work.has_bias:
        return {"TILE": 64, "num_warps": 4, "num_stages": 1}
    if capability == HOPPER:
        return {"TILE": 64, "num_warps": 4 if width == SMALLEST else 8, "num_stages": 1}
    small, warps = (16, 4) if width == SMALLEST else (32, 8)
    return {"TILE": small, "num_warps": warps, "num_stages": 1}


def pieces(tokens: int) -> tuple[int, ...]:
    """At most three descending powers of two, from 16 on, that together hold `tokens` with the least waste.

    197 -> 128, 64, 16
    """
    left, found = -(-tokens // SMALLEST) * SMALLEST, list[int]()
    while left > 0:
        largest = 1 << (left.bit_length() - 1)
        if len(found) == PIECES - 1 and largest < left:
            largest *= 2
        found.append(largest)
        left -= largest
    if len(found) > 1 and found[-1] == found[-2]:  # 128, 64, 64 is 256
        return pieces(sum(found))
    return tuple(found)


def columns_of(heads: Heads) -> tuple[tuple[int, ...], ...]:
    """Of every head, in groups: first of q and k, first of v, qk_dim, v_dim."""
    qk_first, v_first = ([0, *accumulate(dims)] for dims in zip(*heads, strict=True))
    return tuple(
        tuple(units // ALIGNMENT for units in (qk_first[index], v_first[index], *head))
        for index, head in enumerate(heads)
    )
