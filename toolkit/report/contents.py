"""Everything a report shows, gathered by the caller: records as they were written, and latencies already summarised.

What a stage has not made yet is None or empty, and the page says "not run" in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.dg.summary import DataSummary
from toolkit.errors import CheckFailed, InvalidMeasurement
from toolkit.records import Artifact, Environment, ModelSummary, ParityReport, PrunePlan, TrainingHistory


@dataclass(frozen=True, order=True)
class Load:
    """What a session had to do, and where: latencies under one load can be compared."""

    device: str
    runtime: str
    threads: int
    batch_size: int
    """Images a call."""


@dataclass(frozen=True)
class LatencyRow:
    """One subject under one load."""

    load: Load
    subject: str
    samples_ms: tuple[float, ...]
    """One a call, in the order of time, warm-up excluded."""
    median_ms: float
    p95_ms: float
    images_per_second: float
    reasons: tuple[str, ...] = ()
    """Why the measurement is INVALID; empty: VALID."""

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise InvalidMeasurement(
                f"{self.subject} at batch {self.load.batch_size} in {self.load.runtime} has no latency sample",
                "run bench again",
            )

    @property
    def valid(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class SpeedUp:
    """How many times faster slim is than dense under one load, with the ends of its 95 % interval."""

    load: Load
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Page:
    """One run, ready to be shown."""

    title: str
    """Name of the run."""
    dense: ModelSummary
    environment: Environment
    recipe: str
    """The recipe's YAML, as it was run."""
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
    """Subject to the size of its model file, where it is known."""

    def __post_init__(self) -> None:
        if self.parity is not None and not self.parity.domains:
            raise CheckFailed("the parity report compares no domain", "run parity again")
        for domain in self.parity.domains if self.parity else ():
            if not domain.labels:
                raise CheckFailed(f"the parity report has no image of domain {domain.domain!r}", "run parity again")

    @property
    def loads(self) -> tuple[Load, ...]:
        """Every load measured, once, sorted by batch size within a device and runtime."""
        return tuple(sorted({row.load for row in self.latency}))

    def latency_of(self, subject: str, load: Load) -> LatencyRow | None:
        return next((row for row in self.latency if row.subject == subject and row.load == load), None)

    def speedup_at(self, load: Load) -> SpeedUp | None:
        return next((speedup for speedup in self.speedups if speedup.load == load), None)

    def reasons_at(self, load: Load) -> tuple[str, ...]:
        """Why the measurement under this load is INVALID, each reason once; empty: VALID."""
        reasons = (reason for row in self.latency if row.load == load for reason in row.reasons)
        return tuple(dict.fromkeys(reasons))
