"""Contents of a report, collected by the caller: records of the run, and latency summaries.

Results of stages that have not run are None or empty; the page shows "not run" instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.dg.summary import DataSummary
from toolkit.errors import CheckFailed, InvalidMeasurement
from toolkit.records import SLIM, Artifact, Environment, ModelSummary, ParityReport, PrunePlan, TrainingHistory


@dataclass(frozen=True, order=True)
class Load:
    """Benchmark configuration; latencies under equal loads can be compared."""

    device: str
    runtime: str
    threads: int
    batch_size: int


@dataclass(frozen=True)
class LatencyRow:
    """Latency of one subject under one load."""

    load: Load
    subject: str
    samples_ms: tuple[float, ...]
    """One sample per call in chronological order, without warm-up."""
    median_ms: float
    p95_ms: float
    images_per_second: float
    reasons: tuple[str, ...] = ()
    """Why the measurement is INVALID; empty if it is VALID."""

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise InvalidMeasurement(
                f"{self.subject} at batch {self.load.batch_size} in {self.load.runtime} has no latency sample",
                "run `toolkit bench --force`",
            )

    @property
    def valid(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class SpeedUp:
    """Speed-up of a model over dense under one load, with its 95 % interval."""

    load: Load
    ratio: float
    low: float
    high: float
    subject: str = SLIM


@dataclass(frozen=True)
class Page:
    """Contents of one run's report."""

    title: str
    """Name of the run."""
    dense: ModelSummary
    environment: Environment
    recipe: str
    """The recipe as YAML, with all settings that were in effect."""
    data: DataSummary | None = None
    slim: ModelSummary | None = None
    plan: PrunePlan | None = None
    training: TrainingHistory | None = None
    finetuning: TrainingHistory | None = None
    artifacts: tuple[Artifact, ...] = ()
    parity: ParityReport | None = None
    latency: tuple[LatencyRow, ...] = ()
    speedups: tuple[SpeedUp, ...] = ()
    file_bytes: dict[str, int] = field(default_factory=dict)
    """Subject to the size of its model file in bytes, where known."""

    def __post_init__(self) -> None:
        if self.parity is not None and not self.parity.domains:
            raise CheckFailed("the parity report compares no domain", "run `toolkit parity --force`")
        for domain in self.parity.domains if self.parity else ():
            if not domain.labels:
                raise CheckFailed(
                    f"the parity report has no image of domain {domain.domain!r}", "run `toolkit parity --force`"
                )

    @property
    def loads(self) -> tuple[Load, ...]:
        """The distinct loads, sorted by device, runtime, threads and batch size."""
        return tuple(sorted({row.load for row in self.latency}))

    def latency_of(self, subject: str, load: Load) -> LatencyRow | None:
        return next((row for row in self.latency if row.subject == subject and row.load == load), None)

    def speedup_at(self, load: Load) -> SpeedUp | None:
        return next((speedup for speedup in self.speedups if speedup.load == load), None)

    def reasons_at(self, load: Load) -> tuple[str, ...]:
        """Distinct reasons why the measurement under this load is INVALID; empty if it is VALID."""
        reasons = (reason for row in self.latency if row.load == load for reason in row.reasons)
        return tuple(dict.fromkeys(reasons))
