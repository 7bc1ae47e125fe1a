"""Which number formats are emulated: what the CPU has and what torch makes of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from toolkit import limits
from toolkit.models.native import emulated


@pytest.mark.parametrize(
    ("flags", "torch_uses_them", "expected"),
    [
        ("fpu avx2 fma", True, True),
        ("fpu avx2 avx512f avx512_vnni", True, True),  # torch would convert to float32 and back
        ("fpu avx512f avx512_bf16", True, False),
        ("fpu avx512f avx512_bf16", False, True),  # ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA
        ("fp asimd bf16", True, False),
        ("", True, True),  # not Linux: nothing is known
    ],
)
def test_bf16(monkeypatch: pytest.MonkeyPatch, flags: str, torch_uses_them: bool, expected: bool) -> None:
    monkeypatch.setattr(limits, "cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: torch_uses_them)
    assert emulated("bf16") is expected


def test_torch_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cpu_flags", lambda: frozenset({"bf16", "asimdhp"}))
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert emulated("bf16")
    assert emulated("fp16")


def test_formats_that_every_cpu_has_or_torch_does_not_multiply_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cpu_flags", frozenset)
    assert not emulated("fp32")
    assert not emulated("int8")
    assert emulated("fp16")
