"""Libraries that end the process they run in: named, with an exit code of ours, and nothing half-written stays."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from toolkit import records
from toolkit.records import ParityReport

Command = Callable[..., Any]
Unchanged = Callable[..., AbstractContextManager[None]]

OPENVINO = """
import signal, sys, tempfile
from pathlib import Path

class Core:
    def read_model(self, graph):
        return self

    def set_rt_info(self, value, path):
        pass

    def compile_model(self, file, device, settings):
        Path(tempfile.gettempdir(), "half-written").write_text("x")
        print("\\33[31mno such kernel\\33[0m", file=sys.stderr, flush=True)
        signal.raise_signal(signal.SIGSEGV)

def save_model(model, file, compress_to_fp16):
    file.write_bytes(b"half a model")
"""
ONNXRUNTIME = "import os; os.abort()"
LIVING = ("log.jsonl", "environment.json", ".work", "recipe.yaml", "flags.yaml")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """`broken("openvino", program)`: processes that are started find this instead of the library."""

    def shadow(name: str, program: str) -> None:
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / f"{name}.py").write_text(program)
        monkeypatch.syspath_prepend(tmp_path / "broken")

    return shadow


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


CASES = {
    "openvino": (
        ["--openvino", "--batch-size", "4"],
        ("openvino", OPENVINO),
        r"error: OpenVINO [\d.]+ was ended by signal 11 \(SIGSEGV\) while compiling model.xml\n +no such kernel\n",
        "--rewrites without pad-tokens; this is probably a bug in the library",
    ),
    "onnxruntime": (
        ["--onnx", "--opset", "20"],
        ("onnxruntime", ONNXRUNTIME),
        r"error: onnxruntime [\d.]+ was ended by signal 6 \(SIGABRT\) while opening model.onnx\n",
        "another --attention",
    ),
    "quantiser": (
        ["--onnx", "--precision", "int8"],
        ("onnxruntime", ONNXRUNTIME),
        r"error: onnxruntime [\d.]+ was ended by signal 6 \(SIGABRT\) while quantising the graph\n",
        "another --attention",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_export(
    here: Path, command: Command, unchanged: Unchanged, broken: Callable[[str, str], None], temporary: Path, case: Any
) -> None:
    words, library, message, hint = case
    broken(*library)
    with unchanged(here, *LIVING):
        ended = command("export", *words)
    assert ended.code == 1
    assert re.search(message, ended.err), ended.err
    assert hint in ended.err
    assert "Traceback" not in ended.err
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_parity_names_the_side(here: Path, command: Command, broken: Callable[[str, str], None]) -> None:
    assert command("export", "--openvino").code == 0
    broken("openvino", OPENVINO)
    said = r"OpenVINO \d[\d.]+ was ended by signal 11 \(SIGSEGV\) while opening openvino-fp32"
    ended = command("parity", "--set", "export.targets=openvino")
    assert ended.code == 1
    assert re.search(f"error: {said}", ended.err), ended.err
    ended = command("parity", "--set", "export.targets=onnx,openvino")
    assert ended.code == 1
    assert re.search(f"parity: openvino-fp32: not compared: {said}", ended.err), ended.err
    report = records.load(ParityReport, here / "runs/default/parity/parity.json")
    assert (report.unopened.keys(), report.crashed, report.verdict) == ({"openvino-fp32"}, ("openvino-fp32",), "fail")
    assert {made.verdict for domain in report.domains for made in domain.comparisons} == {None, "pass"}
