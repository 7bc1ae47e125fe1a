"""Backend selection: the Triton kernel where it supports the inputs, else one SDPA call per bucket of equal heads."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from toolkit.kernels.heads import ALIGNMENT, Heads, misaligned, unsupported

DTYPES = (torch.float16, torch.bfloat16)
"""Input dtypes of the kernel."""
HAS_TRITON = find_spec("triton") is not None
MIN_CAPABILITY = (8, 0)
"""Lowest compute capability of the kernel: Ampere."""


class Dispatch(NamedTuple):
    """The backend of one attention call, and why not the kernel."""

    backend: Literal["triton", "sdpa"]
    reason: str = ""
    """Why the kernel does not apply; empty for `triton`."""
    hint: str = ""
    """How to prune so that the kernel applies."""


def select_backend(packed: Tensor, heads: Heads, dropout: float = 0.0) -> Dispatch:
    """The backend for `headwise_attention(packed, heads, ..., dropout=dropout)`."""
    if packed.device.type != "cuda":
        return Dispatch("sdpa", f"the kernel runs on GPUs, and the tensors are on {packed.device.type}")
    if torch.version.hip is not None or _capability(packed.device) < MIN_CAPABILITY:
        return Dispatch("sdpa", "the kernel needs an NVIDIA GPU of compute capability 8.0 (Ampere) or later")
    if packed.dtype not in DTYPES:
        return Dispatch("sdpa", f"the kernel supports float16 and bfloat16, not {packed.dtype}")
    if dropout > 0.0:
        return Dispatch("sdpa", "the kernel has no dropout")
    if reason := unsupported(heads):
        return Dispatch("sdpa", reason, f"prune with --round-to {ALIGNMENT}" if misaligned(heads) else "")
    if any(stride % ALIGNMENT for stride in packed.stride()[:-1]):
        return Dispatch("sdpa", "the tokens of the packed projection are not aligned to 16 bytes")
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        return Dispatch("sdpa", "the kernel does not support torch.func transforms")
    if not HAS_TRITON:
        return Dispatch("sdpa", "Triton is not installed")
    return Dispatch("triton")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
