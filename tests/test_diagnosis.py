"""What `toolkit doctor` finds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from toolkit.diagnosis import findings
from toolkit.models import native


def test_findings_name_versions() -> None:
    found = {finding.what: finding for finding in findings()}
    import timm

    assert found["timm"].able
    assert found["timm"].detail == timm.__version__
    assert "CPUExecutionProvider" in found["onnxruntime"].detail
    assert "cores" in found["processor"].detail


def test_what_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = {finding.what: finding for finding in findings()}
    assert (found["onnxruntime"].able, found["TensorRT"].able, found["GPU for training"].able) == (False,) * 3
    assert "pip install onnxruntime" in found["onnxruntime"].detail
    assert "vit-toolkit[tensorrt]" in found["TensorRT"].detail
    assert "no CUDA device" in found["GPU for training"].detail


def test_what_to_install_is_printed_to_the_letter(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ended = command("doctor")
    assert (ended.code, ended.out) == (0, "")
    for extra in ("openvino", "rtx", "tensorrt"):
        assert f"pip install 'vit-toolkit[{extra}]'" in ended.err


@pytest.mark.parametrize(("emulated", "detail"), [(True, "emulated: fp32 is faster"), (False, "by its own")])
def test_number_formats_of_the_cpu(monkeypatch: pytest.MonkeyPatch, emulated: bool, detail: str) -> None:
    monkeypatch.setattr(native, "emulated", lambda precision: emulated)
    found = {finding.what: finding for finding in findings()}
    for name in ("bf16 on the CPU", "fp16 on the CPU"):
        assert found[name].able is not emulated
        assert detail in found[name].detail
