"""What `toolkit doctor` finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.diagnosis import _runtimes, findings


def test_findings_name_versions() -> None:
    found = {finding.what: finding for finding in findings()}
    import timm

    assert found["timm"].able
    assert found["timm"].detail == timm.__version__
    assert "CPUExecutionProvider" in found["onnxruntime"].detail
    assert "cores" in found["processor"].detail


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        (
            "raise ImportError('no libcudart')",
            "pip install onnxruntime-gpu (onnxruntime off Linux x86-64): no libcudart",
        ),
        ("import signal; signal.raise_signal(4)", "onnxruntime was ended by signal 4 (SIGILL) while being imported"),
    ],
)
def test_a_library_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, detail: str
) -> None:
    (tmp_path / "onnxruntime.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = _runtimes()
    assert not found.able
    assert found.detail.startswith(detail)


def test_what_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = {finding.what: finding for finding in findings()}
    assert (found["TensorRT"].able, found["GPU for training"].able) == (False,) * 2
    assert "vit-toolkit[tensorrt]" in found["TensorRT"].detail
    assert "no CUDA device" in found["GPU for training"].detail
