"""Emulated dtypes, by CPU flags and torch's support."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from toolkit import limits
from toolkit.models.native import emulated


@pytest.mark.parametrize(
    ("flags", "supported_by_torch", "expected"),
    [
        ("fpu avx2 fma", True, True),
        ("fpu avx2 avx512f avx512_vnni", True, True),  # torch would convert to float32 and back
        ("fpu avx512f avx512_bf16", True, False),
        ("fpu avx512f avx512_bf16", False, True),  # ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA
        ("fp asimd bf16", True, False),
        ("", True, True),  # not Linux: unknown
    ],
)
def test_bf16(monkeypatch: pytest.MonkeyPatch, flags: str, supported_by_torch: bool, expected: bool) -> None:
    monkeypatch.setattr(limits, "cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported_by_torch)
    assert emulated("bf16") is expected


def test_torch_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cpu_flags", lambda: frozenset({"bf16", "asimdhp"}))
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert emulated("bf16")
    assert emulated("fp16")


def test_fp32_and_int8_are_never_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cpu_flags", frozenset)
    assert not emulated("fp32")
    assert not emulated("int8")
    assert emulated("fp16")
