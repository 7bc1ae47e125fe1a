"""Which number formats torch computes in with this CPU's own instructions.

The others it emulates: every number is converted to float32 and back by code, and a product of two matrices takes 15
to 40 times as long as in float32.
"""

from __future__ import annotations

import torch

from toolkit import limits

FLAGS = {
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"}),
    "fp16": frozenset({"avx512_fp16", "amx_fp16", "asimdhp"}),
}
"""Linux's names for the instructions of each format, on x86-64 and on ARM."""


def emulated(precision: str) -> bool:
    """Whether a format is emulated: this CPU has no instructions for it, as far as is known, or torch uses none."""
    if precision not in FLAGS:
        return False
    used = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", None)  # None: torch without oneDNN
    return FLAGS[precision].isdisjoint(limits.cpu_flags()) or used is None or not used()
