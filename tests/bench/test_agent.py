"""The agent as a program and as a function, with real artifacts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from toolkit import hashing, records
from toolkit.bench.agent import _check_logits, run_benchmark
from toolkit.bench.messages import BenchRequest, Failure, Subject
from toolkit.errors import BadInput, CheckFailed
from toolkit.models import store
from toolkit.models.resize import resized
from toolkit.records import BenchReport

WITHOUT_HEAVY_IMPORTS = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "timm", "scipy", "pydantic", "typer", "yaml", "onnx"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
from toolkit import records
from toolkit.bench import agent, environment, measure, telemetry
from toolkit.bench.runtimes import onnxruntime
sys.exit(agent.main())
"""


NOISY = """
import os
from toolkit.bench import agent
with agent._reserved_stdout() as output:
    os.write(1, b"noise from C")
    print("noise from Python", flush=True)
    output.write("the response")
"""


def request(
    folders: Path, subjects: tuple[str, ...] = ("dense", "slim"), batch_sizes: tuple[int, ...] = (1, 2)
) -> BenchRequest:
    return BenchRequest(
        subjects={name: Subject(str(folders / f"{name}-onnx"), "onnxruntime") for name in subjects},
        batch_sizes=batch_sizes,
        seconds=0.1,
        samples=10,
        threads=1,
        device="local",
    )


def run(program: list[str], stdin: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *program], input=stdin, capture_output=True, text=True, check=False)


def test_the_agent_measures_without_torch_scipy_and_pydantic(folders: Path) -> None:
    done = run(["-W", "error", "-c", WITHOUT_HEAVY_IMPORTS], records.dumps(request(folders)))
    assert done.returncode == 0, done.stderr
    report = records.loads(BenchReport, done.stdout)
    assert [(measurement.subject, measurement.batch_size) for measurement in report.measurements] == [
        ("dense", 1),
        ("slim", 1),
        ("dense", 2),
        ("slim", 2),
    ]
    assert all(line.startswith("progress: ") for line in done.stderr.splitlines())


def test_a_measurement_is_complete(folders: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    report = run_benchmark(request(folders), lambda done, total, message="": steps.append((done, total, message)))
    assert steps == [
        (0, 2, "opening dense in onnxruntime"),
        (0, 2, "opening slim in onnxruntime"),
        (0, 2, "running dense at batch size 1"),
        (0, 2, "running slim at batch size 1"),
        (0, 2, "measuring dense, slim at batch size 1"),
        (1, 2, "running dense at batch size 2"),
        (1, 2, "running slim at batch size 2"),
        (1, 2, "measuring dense, slim at batch size 2"),
        (2, 2, "measured"),
    ]
    for measurement in report.measurements:
        assert len(measurement.latency_ms) >= 10
        assert len(measurement.warmup_ms) >= 5
        assert measurement.artifact_sha256 == hashing.sha256(folders / f"{measurement.subject}-onnx" / "model.onnx")
        assert (measurement.runtime, measurement.device) == ("onnxruntime", "local")
        assert (measurement.clock, measurement.threads) == ("host", 1)
        assert measurement.load_ms > 0
        assert measurement.peak_memory_bytes is None  # two subjects share the process
        assert measurement.valid == (not measurement.reasons)
    assert report.environment.cores >= 1
    counts = {(measurement.batch_size, len(measurement.latency_ms)) for measurement in report.measurements}
    assert len(counts) == 2  # both subjects have the same number of samples, from the same rounds


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_a_single_subject_has_a_peak_memory(folders: Path) -> None:
    done = run(["-m", "toolkit.bench.agent"], records.dumps(request(folders, ("slim",), (1,))))
    (measurement,) = records.loads(BenchReport, done.stdout).measurements
    assert measurement.peak_memory_bytes is not None
    assert 20e6 < measurement.peak_memory_bytes < 1e9


def test_models_and_artifacts_are_measured_together(folders: Path) -> None:
    both = BenchRequest(
        subjects={"eager": Subject(str(folders / "slim"), "torch"), **request(folders, ("slim",)).subjects},
        batch_sizes=(2,),
        seconds=0.1,
        samples=10,
        threads=None,
        device="local",
    )
    eager, exported = run_benchmark(both).measurements
    assert (eager.runtime, exported.runtime) == ("torch", "onnxruntime")
    assert eager.threads == exported.threads >= 1
    assert eager.artifact_sha256 == hashing.sha256(folders / "slim" / "model.safetensors")


def test_models_of_different_image_sizes_are_measured_together(folders: Path, tmp_path: Path) -> None:
    store.load(folders / "slim").save(tmp_path / "slim")
    resized(store.load(folders / "dense"), 24).save(tmp_path / "lower")
    subjects = {name: Subject(str(tmp_path / name), "torch") for name in ("slim", "lower")}
    report = run_benchmark(BenchRequest(subjects, (2,), seconds=0.1, samples=10, threads=1, device="local"))
    assert [measurement.subject for measurement in report.measurements] == ["slim", "lower"]
    assert len({len(measurement.latency_ms) for measurement in report.measurements}) == 1


def test_a_failure_is_written_as_a_record_with_its_exit_code(folders: Path, tmp_path: Path) -> None:
    missing = BenchRequest({"slim": Subject(str(tmp_path), "onnxruntime")}, (1,), 0.1, 10, 1, "local")
    done = run(["-m", "toolkit.bench.agent"], records.dumps(missing))
    failure = records.loads(Failure, done.stdout)
    assert (done.returncode, failure.error) == (2, "BadInput")
    assert str(tmp_path) in failure.message


def test_only_the_response_is_written_to_stdout() -> None:
    done = run(["-W", "error", "-c", NOISY], "")
    assert (done.returncode, done.stdout) == (0, "the response")
    assert "noise from C" in done.stderr
    assert "noise from Python" in done.stderr


@pytest.mark.parametrize("stdin", ["", "{}", json.dumps({"schema": 1, "subjects": 3})])
def test_an_invalid_request_is_refused(stdin: str) -> None:
    done = run(["-m", "toolkit.bench.agent"], stdin)
    assert done.returncode == 2
    assert records.loads(Failure, done.stdout).error == "RecordError"


@pytest.mark.parametrize(
    ("subjects", "batch_sizes", "threads"),
    [((), (1,), 1), (("slim",), (), 1), (("slim",), (0,), 1), (("slim",), (1,), 0)],
)
def test_an_empty_request_is_refused(
    subjects: tuple[str, ...], batch_sizes: tuple[int, ...], threads: int, folders: Path
) -> None:
    subset = request(folders, subjects, batch_sizes).subjects
    with pytest.raises(BadInput):
        run_benchmark(BenchRequest(subset, batch_sizes, 0.1, 10, threads, "local"))


@pytest.mark.parametrize("logits", [np.zeros((2, 4)), np.zeros((1, 3)), np.full((2, 3), np.nan)])
def test_wrong_logits_are_refused(logits: np.ndarray) -> None:
    _check_logits("slim", np.zeros((2, 3)), (2, 3))
    with pytest.raises(CheckFailed, match="slim"):
        _check_logits("slim", logits, (2, 3))
