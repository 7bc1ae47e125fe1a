"""What runs a measurement, in a process of its own: here, or on a device that has Python, numpy and one runtime.

    python -m toolkit.bench.agent < request.json > report.json

Its imports stay clear of torch, scipy and pydantic; a test holds them to it. See `messages` for what goes in and out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from toolkit import limits, records
from toolkit.bench import environment, telemetry
from toolkit.bench.identity import Identity, identify
from toolkit.bench.measure import Load, Samples, interleaved, opened
from toolkit.bench.messages import BenchRequest, Failure, progress_line
from toolkit.bench.runtimes import Session, runtime
from toolkit.bench.validity import reasons
from toolkit.errors import BadInput, CheckFailed, ToolkitError
from toolkit.progress import Progress, silent
from toolkit.records import BenchReport, Environment, Measurement, Telemetry


@dataclass(frozen=True)
class Ready:
    """A subject that is loaded."""

    session: Session
    identity: Identity
    load_ms: float


@dataclass(frozen=True)
class Bench:
    """A request on its machine: what every measurement of it has in common."""

    request: BenchRequest
    threads: int
    environment: Environment
    load_average: float | None


def main() -> int:
    """Request on stdin, report or failure on stdout; returns the exit code."""
    with _own_stdout() as answers:
        code = 0
        try:
            request = records.loads(BenchRequest, sys.stdin.read(), "the request")
            answer: BenchReport | Failure = measured(request, _to_stderr)
        except ToolkitError as error:
            answer, code = Failure.of(error), error.exit_code
        answers.write(records.dumps(answer))
    return code


def measured(request: BenchRequest, report: Progress = silent) -> BenchReport:
    """Open every subject, then measure all of them together at one batch size after the other."""
    load_average = telemetry.load_average()
    _refuse_empty(request)
    threads = request.threads or limits.cores()
    bench = Bench(request, threads, environment.capture(), load_average)
    measurements: list[Measurement] = []
    total = len(request.batch_sizes)
    with ExitStack() as stack:
        subjects = {}
        for name, subject in request.subjects.items():
            report(0, total, f"opening {name} in {subject.runtime}")
            subjects[name] = _ready(Path(subject.folder), subject.runtime, threads, stack)
        size = _common_size(subjects)
        for ready in subjects.values():
            for batch_size in request.batch_sizes:
                ready.identity.check_batch(batch_size)
        for done, batch_size in enumerate(request.batch_sizes):
            tell = partial(report, done, total)
            measurements += _at(batch_size, size, subjects, bench, tell)
        report(total, total, "measured")
    return BenchReport(tuple(measurements))


def _ready(folder: Path, runtime_name: str, threads: int, stack: ExitStack) -> Ready:
    identity = identify(folder)
    library = runtime(runtime_name)
    with library.open(folder, threads):
        pass  # what a library sets up once for a process would else be counted for the first subject alone
    session, load_ms = opened(lambda: library.open(folder, threads))
    return Ready(stack.enter_context(session), identity, load_ms)


def _at(
    batch_size: int, size: int, subjects: dict[str, Ready], bench: Bench, tell: Callable[[str], None]
) -> list[Measurement]:
    """Measurements of all subjects at one batch size. Should one of them end this process, `tell` has named it."""
    images = _images((batch_size, 3, size, size), {subject.identity.dtype for subject in subjects.values()})
    for name, subject in subjects.items():
        tell(f"running {name} at batch size {batch_size}")
        _check_answer(name, subject.session.run(images), (batch_size, len(subject.identity.model.classes)))
    tell(f"measuring {', '.join(subjects)} at batch size {batch_size}")
    before = telemetry.read()
    sessions = {name: subject.session for name, subject in subjects.items()}
    samples = interleaved(sessions, images, Load(bench.request.seconds, bench.request.samples))
    seen = telemetry.between(before, telemetry.read(), bench.load_average)
    return [_measurement(name, subjects[name], samples[name], batch_size, bench, seen) for name in subjects]


def _images(shape: tuple[int, ...], dtypes: set[str]) -> np.ndarray:
    """Random images of the type that all subjects take."""
    if len(dtypes) > 1:
        raise BadInput(f"the subjects take images of different types: {', '.join(sorted(dtypes))}", "export both alike")
    generator = np.random.default_rng(0)
    if dtypes == {"uint8"}:
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.standard_normal(shape, dtype=np.float32)


def _measurement(
    name: str, subject: Ready, samples: Samples, batch_size: int, bench: Bench, seen: Telemetry
) -> Measurement:
    alone = len(bench.request.subjects) == 1
    return Measurement(
        subject=name,
        artifact_sha256=subject.identity.sha256,
        runtime=bench.request.subjects[name].runtime,
        device=bench.request.device,
        scenario="latency",
        batch_size=batch_size,
        threads=bench.threads,
        latency_ms=samples.latency_ms,
        warmup_ms=samples.warmup_ms,
        load_ms=subject.load_ms,
        peak_memory_bytes=telemetry.peak_memory_bytes() if alone else None,
        energy_j=None,
        telemetry=seen,
        environment=bench.environment,
        reasons=reasons(samples.latency_ms, bench.request.samples, seen),
    )


def _refuse_empty(request: BenchRequest) -> None:
    if not request.subjects:
        raise BadInput("there is nothing to measure", "name at least one model or exported file")
    if not request.batch_sizes or min(request.batch_sizes) < 1:
        raise BadInput(f"batch sizes {list(request.batch_sizes)} cannot be measured", "give sizes of 1 and more")
    if request.threads is not None and request.threads < 1:
        raise BadInput(f"{request.threads} threads cannot run anything", "give 1 or more")


def _common_size(subjects: dict[str, Ready]) -> int:
    """Height and width of the images, which side by side must be the same ones."""
    sizes = {name: subject.identity.model.image_size for name, subject in subjects.items()}
    if len(set(sizes.values())) > 1:
        raise BadInput(f"subjects with inputs of different size cannot be compared: {sizes}", "measure them one by one")
    return next(iter(sizes.values()))


def _check_answer(name: str, logits: np.ndarray, shape: tuple[int, int]) -> None:
    """A wrong answer is not worth timing, and arithmetic on NaN or infinity takes another time."""
    if logits.shape != shape:
        raise CheckFailed(f"{name} gives logits of shape {logits.shape}, expected {shape}")
    if not np.isfinite(logits).all():
        raise CheckFailed(f"{name} gives logits that are not finite")


def _own_stdout() -> TextIO:
    """The real stdout for the answer alone; whatever a library prints, even from C, goes to stderr from now on."""
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _to_stderr(done: int, total: int, message: str = "") -> None:
    print(progress_line(done, total, message), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
