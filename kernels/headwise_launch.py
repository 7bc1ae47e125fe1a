"""How the kernels are launched: their arguments, the table of heads, grids."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from toolkit.kernels.headwise_attention import ALIGNMENT, Heads
from toolkit.kernels.headwise_backward import backward_keys, backward_queries
from toolkit.kernels.headwise_forward import online, whole_row
from toolkit.kernels.headwise_settings import Plan, Work, columns_of
from toolkit.kernels.tuned import plan

Plans: TypeAlias = Callable[[Work, torch.device], Plan]
PROGRAMS_AN_SM = 2
"""That run at the same time, of `whole_row` with heads of 64."""


def forward(
    q: Tensor, k: Tensor, v: Tensor, heads: Heads, scale: float, bias: Tensor | None, *, with_lse: bool,
    plans: Plans = plan,
) -> tuple[Tensor, Tensor]:  # fmt: skip
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
    kernel, settings = plans(Work("forward", tokens, tuple(heads), bias is not None, with_lse), q.device)
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
    plans: Plans = plan,
) -> None:  # fmt: skip
    """Fill grad_q, grad_k and grad_v, of the shapes of q, k and v; the others are those of the forward pass."""
    batch, rows, _ = q.shape
    tokens, count, filled = k.shape[1], len(heads), _filled(bias)
    grad_out = grad_out.contiguous()  # as `out`
    read = (q, k, v, out, lse, q if filled is None else filled, table(tuple(heads), q.device), grad_out)
    sizes = (count, rows, tokens, *_groups(q), *_groups(k), *_groups(out))
    settings = plans(Work("backward_keys", tokens, tuple(heads), bias is not None), q.device).settings
    backward_keys[batch * count, triton.cdiv(tokens, settings["KEYS"])](
        *read, grad_k, grad_v, *sizes, *_groups(grad_k), *_groups(filled), scale, **settings
    )
    settings = plans(Work("backward_queries", tokens, tuple(heads), bias is not None), q.device).settings
    backward_queries[batch * count, triton.cdiv(rows, settings["TILE"])](
        *read, grad_q, *sizes, *_groups(grad_q), *_groups(filled), scale, **settings
    )


@cache  # a captured graph reads it for as long as it lives
def table(heads: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """`columns_of` on a device. One for each layout, kept."""
    return torch.tensor(columns_of(heads), dtype=torch.int32, device=device)


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
    return max(1, min(tiles, wanted // max(1, programs)))
