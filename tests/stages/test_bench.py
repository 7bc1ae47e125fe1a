"""The bench stage on a device that measures nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from toolkit import records
from toolkit.recipe import Bench as BenchSettings
from toolkit.recipe import Recipe
from toolkit.runfolder import RunFolder
from toolkit.stages import Run
from toolkit.stages.bench import Bench, bench_folder


@pytest.fixture
def run(here: Path) -> Run:
    """A finished run, to be measured on the null device."""
    settings = BenchSettings(device="null", batch_size=(1, 4), samples=7)
    return Run(Recipe(bench=settings), RunFolder(here / "runs" / "default"))


def measure(run: Run) -> None:
    (output,) = Bench().outputs(run)
    folder = run.folder.path / bench_folder(run)
    folder.mkdir(parents=True)
    output.make(folder)


def test_dense_and_slim_are_measured_and_reported(run: Run) -> None:
    stage = Bench()
    stage.check(run)
    measure(run)
    assert bench_folder(run) == "bench/onnxruntime-null"
    assert stage.summary_lines(run) == [
        "batch 1: dense 1.00 ms, slim 0.50 ms, dense / slim 2.00 [2.00, 2.00]",
        "batch 4: dense 4.00 ms, slim 2.00 ms, dense / slim 2.00 [2.00, 2.00]",
    ]
    assert stage.failure(run) is None


def test_an_invalid_measurement_is_a_failure(run: Run) -> None:
    measure(run)
    report = Bench().record(run)
    busy = replace(report.measurements[0], reasons=("other processes used 40% of the CPU",))
    disturbed = replace(report, measurements=(busy, *report.measurements[1:]))
    records.save(disturbed, run.folder.path / bench_folder(run) / "bench.json")
    failure = Bench().failure(run)
    assert failure is not None
    assert (failure.exit_code, failure.message) == (
        3,
        "the measurement is INVALID: dense at batch 1: other processes used 40% of the CPU",
    )
    assert Bench().summary_lines(run)[0].startswith("INVALID: batch 1")
