"""Devices through their protocol, and the agent of this machine in a subprocess."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit import hashing, plugins
from toolkit.bench.devices import Device, device, local
from toolkit.bench.devices.local import Local
from toolkit.bench.messages import BenchRequest, Subject
from toolkit.errors import BadInput, DeviceUnreachable, LibraryDied, UnknownName, WeightsError


def request(folder: Path, runtime: str = "onnxruntime") -> BenchRequest:
    return BenchRequest({"slim": Subject(str(folder), runtime)}, (1, 2), 0.05, 10, 1, "local")


@pytest.mark.parametrize("name", plugins.names("toolkit.bench.devices"))
def test_every_device_measures_and_describes_itself(name: str, folders: Path) -> None:
    plugin: Device = device(name)
    steps: list[tuple[int, int]] = []
    report = plugin.bench(request(folders / "slim-onnx"), lambda done, total, message="": steps.append((done, total)))
    assert [measurement.batch_size for measurement in report.measurements] == [1, 2]
    assert all(len(measurement.latency_ms) >= 10 for measurement in report.measurements)
    assert {measurement.artifact_sha256 for measurement in report.measurements} == {
        hashing.sha256(folders / "slim-onnx" / "model.onnx")
    }
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
    assert plugin.environment([]).cores == report.environment.cores >= 1


def test_the_requested_versions_are_described() -> None:
    assert device("local").environment(["numpy"]).libraries == {"numpy": np.__version__}


def test_relative_folders_refer_to_the_working_directory(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    (first, _) = device("local").bench(request(Path("slim-onnx"))).measurements
    assert first.subject == "slim"


def test_errors_of_the_agent_are_raised(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no artifact\.json"):
        device("local").bench(request(tmp_path))
    with pytest.raises(BadInput, match="unknown runtime 'onnx'"):
        device("local").bench(request(folders / "slim-onnx", "onnx"))
    for file in (folders / "slim-onnx").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(WeightsError, match="hash"):
        device("local").bench(request(tmp_path))


OPENING = "import signal, sys; print('progress: [0, 1, \"opening slim\"]', file=sys.stderr, flush=True)"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import signal; signal.raise_signal(11)", r"was ended by signal 11 \(SIGSEGV\) while starting"),
        (f"{OPENING}; signal.raise_signal(9)", r"was ended by signal 9 \(SIGKILL\) while opening slim"),
        ("import sys; sys.stdin.read(); raise SystemError('no such instruction')", "no such instruction"),
    ],
)
def test_a_crashed_agent_raises_library_died(program: str, message: str, folders: Path) -> None:
    with pytest.raises(LibraryDied, match=message):
        Local((sys.executable, "-c", program)).bench(request(folders / "slim-onnx"))


def test_an_interrupt_kills_the_agent(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    class Recorded(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    def interrupted(done: int, total: int, message: str = "") -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    with pytest.raises(KeyboardInterrupt):
        device("local").bench(replace(request(folders / "slim-onnx"), seconds=3600.0), interrupted)
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_an_agent_that_cannot_start_is_unreachable(folders: Path) -> None:
    with pytest.raises(DeviceUnreachable, match="cannot start the benchmark process"):
        Local((str(folders / "no-such-python"),)).bench(request(folders / "slim-onnx"))


def test_only_the_request_controls_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("KMP_AFFINITY", "compact")
    monkeypatch.setenv("UNRELATED", "kept")
    variables = local._environment(threads=3)
    assert variables["OMP_NUM_THREADS"] == "3"
    assert "KMP_AFFINITY" not in variables
    assert variables["UNRELATED"] == "kept"


def test_an_unknown_device_suggests_the_closest() -> None:
    with pytest.raises(UnknownName, match="local"):
        device("locale")
