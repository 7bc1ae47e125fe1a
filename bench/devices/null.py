"""A device that measures nothing, for tests of code that uses devices: every latency is a literal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolkit.bench.devices import Device
from toolkit.bench.identity import identify
from toolkit.bench.messages import BenchRequest
from toolkit.progress import Progress, silent
from toolkit.records import BenchReport, Environment, Measurement, Telemetry

ENVIRONMENT = Environment("0", "3.12", "null", "null", 1, 0, None, None, {})


class Null:
    """A call takes one millisecond per image for the first subject, half of it for the second, and so on."""

    is_this_machine = False

    def bench(self, request: BenchRequest, progress: Progress = silent) -> BenchReport:
        """The requested number of samples. Only the folders' records are read; no file is loaded."""
        progress(0, 1, "measuring nothing")
        measurements = tuple(
            Measurement(
                subject=name,
                artifact_sha256=identify(Path(subject.folder)).sha256,
                runtime=subject.runtime,
                device=request.device,
                batch_size=batch_size,
                threads=request.threads or 1,
                latency_ms=(batch_size / position,) * request.samples,
                warmup_ms=(),
                load_ms=0.0,
                peak_memory_bytes=None,
                telemetry=Telemetry(),
                reasons=(),
                clock=request.clock,
            )
            for batch_size in request.batch_sizes
            for position, (name, subject) in enumerate(request.subjects.items(), 1)
        )
        progress(1, 1, "measured")
        return BenchReport(measurements, ENVIRONMENT)

    def environment(self, libraries: Sequence[str]) -> Environment:
        return ENVIRONMENT


PLUGIN: Device = Null()
