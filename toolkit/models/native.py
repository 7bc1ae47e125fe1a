"""Dtypes that torch computes natively on this CPU.

Others are emulated: values are converted to float32 and back in software, and a matrix product takes 15 to 40 times as
long as in float32.
"""

from __future__ import annotations

import torch

from toolkit import limits

CPU_FLAGS = {
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"}),
    "fp16": frozenset({"avx512_fp16", "amx_fp16", "asimdhp"}),
}
"""Linux's CPU flags for each precision, on x86-64 and on ARM."""


def emulated(precision: str) -> bool:
    """Whether `precision` is emulated: the CPU has no known instructions for it, or torch does not use them."""
    if precision not in CPU_FLAGS:
        return False
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", None)  # None: torch without oneDNN
    return CPU_FLAGS[precision].isdisjoint(limits.cpu_flags()) or supported is None or not supported()
