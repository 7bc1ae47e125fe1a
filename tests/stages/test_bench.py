"""The bench stage on a device that measures nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from toolkit import records
from toolkit.recipe import Bench as BenchSettings
from toolkit.recipe import Recipe
from toolkit.records import BenchReport
from toolkit.runfolder import RunFolder
from toolkit.stages import Run
from toolkit.stages.bench import Bench, bench_folder


@pytest.fixture
def run(here: Path) -> Run:
    """A finished run, to be measured on the null device."""
    settings = BenchSettings(device="null", batch_size=(1, 4), samples=7)
    return Run(Recipe(bench=settings), RunFolder(here / "runs" / "default"))


def test_dense_and_slim_are_measured_and_told(run: Run, tmp_path: Path) -> None:
    stage = Bench()
    stage.check(run)
    (output,) = stage.outputs(run)
    run.folder.path.joinpath(bench_folder(run)).mkdir(parents=True)
    output.make(run.folder.path / bench_folder(run))
    assert bench_folder(run) == "bench/onnxruntime-null"
    assert stage.summary_lines(run) == [
        "batch 1: dense 1.00 ms, slim 0.50 ms, dense / slim 2.00 [2.00, 2.00]",
        "batch 4: dense 4.00 ms, slim 2.00 ms, dense / slim 2.00 [2.00, 2.00]",
    ]
    assert stage.failure(run) is None


def test_an_invalid_measurement_is_a_failure(run: Run) -> None:
    stage = Bench()
    (output,) = stage.outputs(run)
    folder = run.folder.path / bench_folder(run)
    folder.mkdir(parents=True)
    output.make(folder)
    report = stage.record(run)
    busy = replace(report.measurements[0], reasons=("other processes used 40% of the CPU",))
    records.save(BenchReport((busy, *report.measurements[1:]), report.environment), folder / "bench.json")
    failure = stage.failure(run)
    assert failure is not None
    assert (failure.exit_code, str(failure)) == (
        3,
        "the measurement is INVALID: dense at batch 1: other processes used 40% of the CPU",
    )
    assert stage.summary_lines(run)[0].startswith("INVALID: batch 1")
