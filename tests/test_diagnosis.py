"""What `toolkit doctor` finds."""

from __future__ import annotations

import sys

import pytest

from toolkit.diagnosis import findings


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
