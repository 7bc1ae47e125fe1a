"""Launching the kernels: arguments, head tables, grids."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from toolkit.kernels.heads import ALIGNMENT, Heads, head_table
from toolkit.kernels.headwise_backward import backward_keys, backward_queries
from toolkit.kernels.headwise_forward import online, whole_row
from toolkit.kernels.headwise_settings import PROGRAMS_PER_SM, KernelConfig, Workload
from toolkit.kernels.tuned import best_config

ConfigLookup: TypeAlias = Callable[[Workload, torch.device], KernelConfig]


def forward(
    q: Tensor, k: Tensor, v: Tensor, heads: Heads, scale: float, bias: Tensor | None, key_bias: Tensor | None = None,
    *, with_lse: bool, config_for: ConfigLookup = best_config,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention of q [batch, queries, Q], k [batch, keys, Q], v [batch, keys, V] with a bias [heads, queries, keys] and
    a key_bias [batch, keys], or None.

    k and v must have equal strides. Returns the output [batch, queries, V] and, with `with_lse`, the base-2 log-sum-exp
    of the logits [batch, heads, queries] float32; else an empty tensor.
    """
    batch, num_queries, _ = q.shape
    num_keys, num_heads = k.shape[1], len(heads)
    out = q.new_empty(batch, num_queries, v.shape[2])
    lse = q.new_empty((batch, num_heads, num_queries) if with_lse else 0, dtype=torch.float32)
    bias, key_bias = _padded(bias), _in_float32(key_bias)
    table = device_table(tuple(heads), q.device)
    tensors = (q, k, v, out, lse, q if bias is None else bias, lse if key_bias is None else key_bias, table)
    strides = (*_strides(q), *_strides(k), *_strides(out), *_strides(bias), num_keys)
    workload = Workload("forward", num_keys, tuple(heads), bias is not None, key_bias is not None, with_lse)
    kernel, settings = config_for(workload, q.device)
    blocks = triton.cdiv(num_queries, settings["BLOCK_Q"])
    if kernel == "whole_row":
        grid = batch * num_heads, _query_splits(q.device, batch * num_heads, blocks)
        whole_row[grid](*tensors, num_heads, num_queries, *strides, scale * math.log2(math.e), **settings)
    else:
        grid = batch * num_heads, blocks
        online[grid](*tensors, num_heads, num_queries, num_keys, *strides, scale * math.log2(math.e), **settings)
    return out, lse


def backward(
    q: Tensor, k: Tensor, v: Tensor, heads: Heads, scale: float, bias: Tensor | None, key_bias: Tensor | None,
    out: Tensor, lse: Tensor, grad_out: Tensor, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor,
    config_for: ConfigLookup = best_config,
) -> None:  # fmt: skip
    """Write grad_q, grad_k and grad_v, shaped like q, k and v; the other arguments are those of the forward pass."""
    batch, num_queries, _ = q.shape
    num_keys, num_heads, bias, key_bias = k.shape[1], len(heads), _padded(bias), _in_float32(key_bias)
    grad_out = grad_out.contiguous()  # the strides of `out`
    table = device_table(tuple(heads), q.device)
    biases = (q if bias is None else bias, lse if key_bias is None else key_bias)
    has_biases = bias is not None, key_bias is not None
    tensors = (q, k, v, out, lse, *biases, table, grad_out)
    sizes = (num_heads, num_queries, num_keys, *_strides(q), *_strides(k), *_strides(out))
    settings = config_for(Workload("backward_keys", num_keys, tuple(heads), *has_biases), q.device).settings
    backward_keys[batch * num_heads, triton.cdiv(num_keys, settings["BLOCK_K"])](
        *tensors, grad_k, grad_v, *sizes, *_strides(grad_k), *_strides(bias), num_keys, scale, **settings
    )
    settings = config_for(Workload("backward_queries", num_keys, tuple(heads), *has_biases), q.device).settings
    backward_queries[batch * num_heads, triton.cdiv(num_queries, settings["BLOCK_Q"])](
        *tensors, grad_q, *sizes, *_strides(grad_q), *_strides(bias), num_keys, scale, **settings
    )


@cache  # kept for good: captured CUDA graphs read it
def device_table(heads: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """`head_table` on a device, [heads, 4] int32; one per layout."""
    return torch.tensor(head_table(heads), dtype=torch.int32, device=device)


def _padded(bias: Tensor | None) -> Tensor | None:
    """Contiguous bias with rows padded to a multiple of `ALIGNMENT`, so that they are aligned to 16 bytes."""
    return None if bias is None else F.pad(bias, (0, -bias.shape[2] % ALIGNMENT)).contiguous()


def _in_float32(key_bias: Tensor | None) -> Tensor | None:
    return None if key_bias is None else key_bias.float().contiguous()


def _strides(x: Tensor | None) -> tuple[int, int]:
    """The first two strides, in units of `ALIGNMENT` elements."""
    return (0, 0) if x is None else (x.stride(0) // ALIGNMENT, x.stride(1) // ALIGNMENT)


def _query_splits(device: torch.device, programs: int, blocks: int) -> int:
    """Number of programs that a head's query blocks are split across, so that small batches fill the GPU too."""
    if device.type != "cuda":
        return 1
    wanted = PROGRAMS_PER_SM * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(blocks, wanted // max(1, programs)))
