"""Latency measurements and the machine that took them."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.records.schema import since


@dataclass(frozen=True)
class Environment:
    """Hardware and software of the machine."""

    toolkit: str
    python: str
    platform: str
    processor: str
    cores: int
    """CPU cores that the process could use."""
    memory_bytes: int
    gpu: str | None
    driver: str | None
    libraries: dict[str, str]
    power_mode: str | None = None
    clocks_mhz: tuple[float, ...] = ()
    schema: int = 1


@dataclass(frozen=True)
class GpuState:
    """Clocks, temperature and power of a GPU; None: unknown."""

    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    temperature_c: float | None
    power_w: float | None


@dataclass(frozen=True)
class Telemetry:
    """State of the machine during a measurement; None: unknown."""

    cpu_share: float | None = None
    """CPU time of other processes during the measurement, as a fraction of all cores."""
    temperature_c: tuple[float, ...] = ()
    throttled: bool | None = None
    gpu: GpuState | None = since(2, None)
    """Right after the measurement; None without an NVIDIA GPU."""
    gpu_throttled: bool | None = since(2, None)


@dataclass(frozen=True)
class Measurement:
    """All latency samples of one artifact at one batch size."""

    subject: str
    """DENSE or SLIM."""
    artifact_sha256: str
    runtime: str
    device: str
    batch_size: int
    threads: int
    latency_ms: tuple[float, ...]
    """One sample per call, without warm-up; the samples i of a report's measurements were taken one after the other."""
    warmup_ms: tuple[float, ...]
    load_ms: float
    """Time to load the file and create a session."""
    peak_memory_bytes: int | None
    """Peak resident memory of the process; None if several models share it."""
    telemetry: Telemetry
    reasons: tuple[str, ...]
    """Reasons why it is INVALID; empty if VALID."""
    clock: str = since(2, "host")
    schema: int = 2

    @property
    def valid(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class BenchReport:
    """Interleaved measurements of one session."""

    measurements: tuple[Measurement, ...]
    environment: Environment
    """The machine that took the measurements."""
    schema: int = 2
