"""Results that meet every claim, by a wide or narrow margin."""

from __future__ import annotations

import pytest

from toolkit.bench.acceptance import models
from toolkit.bench.acceptance.results import Bandwidth, CheckReport, ModelReport, Results
from toolkit.bench.kernels.attention import KernelReport
from toolkit.bench.kernels.cases import HEADWISE, cases
from toolkit.records import BenchReport, Environment, GpuState, Measurement, Telemetry

GPU = GpuState(1980.0, 2619.0, 60.0, 400.5)
MACHINE = Environment("0", "3.12", "linux", "cpu", 2, 0, "NVIDIA H100", "580", {"torch": "2.10", "scipy": "1"})


def kernel(name: str, microseconds: float, fastest: float) -> KernelReport:
    case = next(case for case in cases() if case.name == name)
    times = {HEADWISE: microseconds, "flash": fastest, "cudnn": 2 * fastest}
    samples = {provider: (time / 1e3,) * 30 for provider, time in times.items()}
    return KernelReport(case, samples, {"math": "RuntimeError: a|b"}, "triton", "", GPU)


def model(name: str, mode: str, slim_ms: float = 5.5) -> ModelReport:
    measurements = tuple(
        Measurement(
            subject=subject,
            artifact_sha256="00",
            runtime=models.MODES[mode].runtime,
            device="local",
            batch_size=128,
            threads=1,
            latency_ms=(milliseconds,) * 30,
            warmup_ms=(),
            load_ms=1.0,
            peak_memory_bytes=None,
            telemetry=Telemetry(gpu=GPU),
            reasons=(),
        )
        for subject, milliseconds in (("dense", 10.0), ("slim", slim_ms))
    )
    return ModelReport(name, mode, 128, {"dense": 200, "slim": 100}, BenchReport(measurements, MACHINE))


@pytest.fixture
def results() -> Results:
    return Results(
        MACHINE,
        {"kernels": "ab"},
        Bandwidth(4.8e12, 4.3e12),
        (CheckReport("tests", True, "7 passed, 0 failed"), CheckReport("memcheck", True, "0 findings")),
        (kernel("dense", 50.0, 61.0), kernel("uneven", 20.0, 31.0), kernel("dense, 577 tokens", 200.0, 181.0)),
        tuple(model(name, mode) for name in models.NAMES for mode in models.MODES),
    )
