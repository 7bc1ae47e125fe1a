"""What `toolkit doctor` finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit.diagnosis import _runtimes, findings
from toolkit.models import native


def test_findings_name_versions() -> None:
    reported = {finding.capability: finding for finding in findings()}
    import timm

    assert reported["timm"].available
    assert reported["timm"].detail == timm.__version__
    assert "CPUExecutionProvider" in reported["onnxruntime"].detail
    assert "cores" in reported["CPU"].detail


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
    (reported,) = _runtimes()
    assert not reported.available
    assert reported.detail.startswith(detail)


def test_what_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reported = {finding.capability: finding for finding in findings()}
    assert (reported["target rtx"].available, reported["GPU for training"].available) == (False,) * 2
    assert "vit-toolkit[rtx]" in reported["target rtx"].detail
    assert "no CUDA device" in reported["GPU for training"].detail


def test_what_to_install_is_printed_to_the_letter(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ended = command("doctor")
    assert (ended.code, ended.out) == (0, "")
    for extra in ("openvino", "rtx", "tensorrt"):
        assert f"pip install 'vit-toolkit[{extra}]'" in ended.err


@pytest.mark.parametrize(("emulated", "detail"), [(True, "emulated: fp32 is faster"), (False, "native")])
def test_number_formats_of_the_cpu(monkeypatch: pytest.MonkeyPatch, emulated: bool, detail: str) -> None:
    monkeypatch.setattr(native, "emulated", lambda precision: emulated)
    reported = {finding.capability: finding for finding in findings()}
    for name in ("bf16 on the CPU", "fp16 on the CPU"):
        assert reported[name].available is not emulated
        assert detail in reported[name].detail
