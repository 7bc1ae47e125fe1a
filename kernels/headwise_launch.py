"""How the kernels are launched: which one, sizes of tiles, the table of heads, grids.

Sizes are such that nothing spills to memory on any GPU from Ampere on, and that shared memory suffices; what that was
found out with is `machine_code`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from toolkit.kernels.headwise_attention import ALIGNMENT, Heads
from toolkit.kernels.headwise_backward import backward_keys, backward_queries
from toolkit.kernels.headwise_forward import online, whole_row

Settings = dict[str, int]
"""What a kernel is compiled for: its constants, and the compiler's options."""

HOPPER = 90
"""Compute capability, times ten, of the GPU whose products read both factors from shared memory."""
WHOLE_ROW_TOKENS = {"hopper": 320, "hopper with bias": 272, "others": 208}
WHOLE_ROW_WIDTH = 64
"""Up to so many tokens and units of the widest head, a row of logits, the keys and the values fit on the chip."""
SMALLEST = 16
"""Rows, columns and depth of the smallest product that tensor cores take."""
PIECES = 3
"""Into how many powers of two the keys are cut at most."""
PROGRAMS_AN_SM = 2
"""That run at the same time, of `whole_row` with heads of 64."""


def forward(
    q: Tensor, k: Tensor, v: Tensor, heads: Heads, scale: float, bias: Tensor | None, *, with_lse: bool
) -> tuple[Tensor, Tensor]:
    """q [batch, rows, Q], k [batch, tokens, Q], v [batch, tokens, V], bias [heads, rows, tokens] or None.

    k and v lie in one tensor, so that they have the same strides. Returns the output [batch, rows, V] and, if asked
    for, log2 of the sum of every row's exponentials [batch, heads, rows] in float32; else an empty tensor.
    """
    batch, rows, _ = q.shape
    tokens, count = k.shape[1], len(heads)
    out = q.new_empty(batch, rows, v.shape[2])
    lse = q.new_empty((batch, count, rows) if with_lse else 0, dtype=torch.float32)
    filled = _filled(bias)
    read = (q, k, v, out, lse, q if filled is None else filled, table(tuple(heads), q.device))
    strides = (*_groups(q), *_groups(k), *_groups(out), *_groups(filled))
    capability, has_bias = capability_of(q.device), bias is not None
    kernel = forward_kernel(tokens, heads, capability, has_bias=has_bias)
    settings = settings_of(kernel, tokens, heads, capability, has_bias=has_bias, with_lse=with_lse)
    tiles = triton.cdiv(rows, settings["TILE"])
    if kernel == "whole_row":
        grid = batch * count, _shares(q.device, batch * count, tiles)
        whole_row[grid](*read, count, rows, *strides, scale * math.log2(math.e), **settings)
    else:
        grid = batch * count, tiles
        online[grid](*read, count, rows, tokens, *strides, scale * math.log2(math.e), **settings)
    return out, lse


def backward(
    q: Tensor, k: Tensor, v: Tensor, heads: Heads, scale: float, bias: Tensor | None,
    out: Tensor, lse: Tensor, grad_out: Tensor, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor,
) -> None:  # fmt: skip
    """Fill grad_q, grad_k and grad_v, of the shapes of q, k and v; the others are those of the forward pass."""
    batch, rows, _ = q.shape
    tokens, count, filled = k.shape[1], len(heads), _filled(bias)
    grad_out = grad_out.contiguous()  # as `out`
    read = (q, k, v, out, lse, q if filled is None else filled, table(tuple(heads), q.device), grad_out)
    sizes = (count, rows, tokens, *_groups(q), *_groups(k), *_groups(out))
    capability, has_bias = capability_of(q.device), bias is not None
    settings = settings_of("backward_keys", tokens, heads, capability, has_bias=has_bias)
    backward_keys[batch * count, triton.cdiv(tokens, settings["KEYS"])](
        *read, grad_k, grad_v, *sizes, *_groups(grad_k), *_groups(filled), scale, **settings
    )
    settings = settings_of("backward_queries", tokens, heads, capability, has_bias=has_bias)
    backward_queries[batch * count, triton.cdiv(rows, settings["TILE"])](
        *read, grad_q, *sizes, *_groups(grad_q), *_groups(filled), scale, **settings
    )


def forward_kernel(tokens: int, heads: Heads, capability: int, *, has_bias: bool) -> str:
    """Which kernel computes the forward pass."""
    gpu = "others" if capability != HOPPER else "hopper with bias" if has_bias else "hopper"
    small = tokens <= WHOLE_ROW_TOKENS[gpu] and max(map(max, heads)) <= WHOLE_ROW_WIDTH
    return "whole_row" if small else "online"


def settings_of(
    kernel: str, tokens: int, heads: Heads, capability: int, *, has_bias: bool, with_lse: bool = False
) -> Settings:
    """What a kernel is compiled for, for this number of keys, these heads and this GPU."""
    dq, dv = (max(SMALLEST, triton.next_power_of_2(max(dims))) for dims in zip(*heads, strict=True))
    wide = max(dq, dv) > WHOLE_ROW_WIDTH
    settings = {"DQ": dq, "DV": dv, "HAS_BIAS": has_bias, "num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
    if kernel == "whole_row":
        keys = dict(zip(("KEYS_0", "KEYS_1", "KEYS_2"), (*pieces(tokens), 0, 0), strict=False))
        settings |= {"TOKENS": tokens, **keys, "WITH_LSE": with_lse, "HOPPER": capability == HOPPER, "TILE": 64}
        if has_bias:  # a row of it needs as many registers as one of logits
            settings |= _sizes_with_bias(max(dq, dv), capability)
    elif kernel == "online":
        settings |= {"TILE": 64, "KEYS": 32 if wide else 64, "WITH_LSE": with_lse, "num_stages": 2}
    else:
        settings |= {"TILE": 32 if wide else 64, "KEYS": 32}
    return settings


def _sizes_with_bias(width: int, capability: int) -> Settings:
    if capability == HOPPER:
        return {"num_warps": 4 if width == SMALLEST else 8}
    return {"TILE": 16, "num_warps": 4} if width == SMALLEST else {"TILE": 32, "num_warps": 8}


@lru_cache
def capability_of(device: torch.device) -> int:
    """Of a GPU, times ten; where kernels are interpreted they are those of Hopper."""
    if device.type != "cuda":
        return HOPPER
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


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


@lru_cache(maxsize=1024)
def table(heads: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """`columns_of` on a device. One for each layout, kept."""
    return torch.tensor(columns_of(heads), dtype=torch.int32, device=device)


def columns_of(heads: Heads) -> tuple[tuple[int, ...], ...]:
    """Of every head, in groups: first of q and k, first of v, qk_dim, v_dim."""
    qk_first, v_first = ([0, *accumulate(dims)] for dims in zip(*heads, strict=True))
    return tuple(
        tuple(units // ALIGNMENT for units in (qk_first[index], v_first[index], *head))
        for index, head in enumerate(heads)
    )


def _filled(bias: Tensor | None) -> Tensor | None:
    """With rows of whole groups, side by side: [heads, rows, tokens] -> [heads, rows, a little more]."""
    return None if bias is None else F.pad(bias, (0, -bias.shape[2] % ALIGNMENT)).contiguous()


def _groups(x: Tensor | None) -> tuple[int, int]:
    """Distance in groups of two images, or of two heads of a bias, and of two rows."""
    return (0, 0) if x is None else (x.stride(0) // ALIGNMENT, x.stride(1) // ALIGNMENT)


def _shares(device: torch.device, programs: int, tiles: int) -> int:
    """Among how many programs the tiles of a head are shared out, so that a small batch fills the GPU too."""
    if device.type != "cuda":
        return 1
    wanted = PROGRAMS_AN_SM * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(tiles, wanted // programs))
