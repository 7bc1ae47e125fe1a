"""report: all results of the run on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from toolkit import plugins, resolve
from toolkit.records import (
    DENSE,
    Artifact,
    BenchReport,
    Measurement,
    ModelSummary,
    ParityReport,
    PrunePlan,
    TrainingHistory,
)
from toolkit.stages import FINETUNED, MODELS, PARITY, PRUNED, Output, Run, Stage

if TYPE_CHECKING:
    from toolkit.report.contents import LatencyRow, Page, SpeedUp
    from toolkit.terminal import Table

FILE = "report.html"


class Report(Stage):
    name = "report"
    needs = ("parity", "bench")
    page = FILE

    def outputs(self, run: Run) -> list[Output]:
        return []

    def record(self, run: Run) -> Page:
        return page_of(run)

    def write_page(self, run: Run) -> None:
        from toolkit.report.page import render

        run.folder.write_text(FILE, render(page_of(run)))

    def table(self, run: Run) -> Table:
        from toolkit.report.text import summary_table

        return summary_table(page_of(run))


def page_of(run: Run) -> Page:
    """Contents of the report: all current results in the run folder. Stages that have not run are left out."""
    from toolkit.bench.environment import capture
    from toolkit.dg.summary import DataSummary
    from toolkit.report.contents import Page

    folder = run.folder
    models = {run.identity_of(result) for result in MODELS.values() if folder.stage(result)}
    exported = [folder.read(result, "artifact.json", Artifact) for result in _results(run, "artifacts")]
    artifacts = [artifact for artifact in exported if artifact.model.identity in models]
    reports = _current_reports(run, artifacts)
    rows, speedups = latency_of([measurement for report in reports for measurement in report.measurements])
    return Page(
        title=folder.path.name,
        dense=_summary(run, DENSE),
        environment=reports[0].environment if reports else capture(plugins.requirements()),
        recipe=resolve.as_yaml(run.recipe),
        data=folder.read(DENSE, "data.json", DataSummary),
        slim=_summary(run, FINETUNED) if folder.stage(FINETUNED) else None,
        plan=folder.read(PRUNED, "plan.json", PrunePlan) if folder.stage(PRUNED) else None,
        training=folder.read(DENSE, "history.json", TrainingHistory),
        finetuning=folder.read(FINETUNED, "history.json", TrainingHistory) if folder.stage(FINETUNED) else None,
        artifacts=tuple(artifacts),
        parity=folder.read(PARITY, "parity.json", ParityReport) if folder.stage(PARITY) else None,
        latency=tuple(rows),
        speedups=tuple(speedups),
        file_bytes={
            subject: (folder.path / result / "model.safetensors").stat().st_size
            for subject, result in MODELS.items()
            if folder.stage(result)
        },
    )


def _results(run: Run, parent: str) -> list[str]:
    """Names of the finished results in a folder of the run."""
    folders = sorted((run.folder.path / parent).glob("[!.]*"))
    return [f"{parent}/{folder.name}" for folder in folders if run.folder.stage(f"{parent}/{folder.name}")]


def _current_reports(run: Run, artifacts: list[Artifact]) -> list[BenchReport]:
    """Measurements of the run's present models: those of another runtime or device may be of former ones."""
    present = {artifact.sha256 for artifact in artifacts}
    present |= {run.identity_of(result) for result in MODELS.values() if run.folder.stage(result)}
    reports = [run.folder.read(result, "bench.json", BenchReport) for result in _results(run, "bench")]
    current = [
        replace(report, measurements=tuple(each for each in report.measurements if each.artifact_sha256 in present))
        for report in reports
    ]
    return [report for report in current if report.measurements]


def _summary(run: Run, result: str) -> ModelSummary:
    from toolkit.models import store
    from toolkit.models.summary import summarise

    return summarise(store.load(run.folder.path / result))


def latency_of(measurements: Sequence[Measurement]) -> tuple[list[LatencyRow], list[SpeedUp]]:
    """Latencies of all subjects, and speed-ups over the dense model."""
    from toolkit.bench.statistics import percentiles, ratio_of_medians
    from toolkit.report.contents import LatencyRow, Load, SpeedUp

    rows: dict[tuple[Load, str], LatencyRow] = {}
    for result in measurements:
        load = Load(result.device, result.runtime, result.threads, result.batch_size)
        median, p95 = percentiles(result.latency_ms, [50, 95])
        throughput = 1000 * result.batch_size / median
        rows[load, result.subject] = LatencyRow(
            load, result.subject, result.latency_ms, median, p95, throughput, result.reasons
        )
    speedups = []
    for (load, subject), row in rows.items():
        if subject != DENSE and (load, DENSE) in rows:
            ratio = ratio_of_medians(rows[load, DENSE].samples_ms, row.samples_ms)
            speedups.append(SpeedUp(load, ratio.value, ratio.low, ratio.high, subject))
    return list(rows.values()), speedups
