"""The benchmark agent: measures in a process of its own, here or on a device that has Python, numpy and one runtime.

    python -m toolkit.bench.agent < request.json > report.json

`messages` defines its input and output. It must not import torch, scipy or pydantic, which a test checks.
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
from toolkit.bench.clocks import Clock, clock
from toolkit.bench.clocks.host import timed
from toolkit.bench.measure import NS_PER_MS, Samples, StopCondition, interleaved
from toolkit.bench.messages import BenchRequest, Failure, Subject, progress_line
from toolkit.bench.runtimes import Session, described, runtime
from toolkit.bench.validity import invalid_reasons
from toolkit.errors import BadInput, CheckFailed, ToolkitError
from toolkit.progress import Progress, silent
from toolkit.records import BenchReport, Measurement, Telemetry


@dataclass(frozen=True)
class LoadedSubject:
    """A subject whose session is open."""

    session: Session
    load_ms: float


@dataclass(frozen=True)
class BenchContext:
    """Everything that the measurements of one request have in common."""

    request: BenchRequest
    clock: Clock
    threads: int


def main() -> int:
    """Read a request from stdin and write a report or a failure to stdout; returns the exit code."""
    with _reserved_stdout() as output:
        code = 0
        try:
            request = records.loads(BenchRequest, sys.stdin.read(), "the request", validated=True)
            response: BenchReport | Failure = run_benchmark(request, _print_progress)
        except ToolkitError as error:
            response, code = Failure.from_error(error), error.exit_code
        output.write(records.dumps(response))
    return code


def run_benchmark(request: BenchRequest, progress: Progress = silent) -> BenchReport:
    """Open every subject, then measure all of them interleaved, one batch size after the other."""
    _validate(request)
    threads = request.threads or limits.cores()
    context = BenchContext(request, clock(request.clock, request.clock_settings), threads)
    measurements: list[Measurement] = []
    total = len(request.batch_sizes)
    with ExitStack() as stack:
        subjects = {}
        for name, subject in request.subjects.items():
            progress(0, total, f"opening {name} in {subject.runtime}")
            subjects[name] = _load(subject, threads, stack)
        _check_common_input(subjects)
        for loaded in subjects.values():
            for batch_size in request.batch_sizes:
                loaded.session.spec.check_batch(batch_size)
        for done, batch_size in enumerate(request.batch_sizes):
            step = partial(progress, done, total)
            measurements += _measure_batch_size(batch_size, subjects, context, step)
        progress(total, total, "measured")
    needs = [need for subject in request.subjects.values() for need in described(subject.runtime).needs]
    return BenchReport(tuple(measurements), environment.capture((*request.libraries, *needs)))


def _load(subject: Subject, threads: int, stack: ExitStack) -> LoadedSubject:
    folder = Path(subject.folder)
    library = runtime(subject.runtime, subject.settings)
    with library.open(folder, threads):
        pass  # Warm up: one-time library initialisation must not be charged to the first subject.
    session, nanoseconds = timed(lambda: library.open(folder, threads))
    return LoadedSubject(stack.enter_context(session), nanoseconds / NS_PER_MS)


def _measure_batch_size(
    batch_size: int,
    subjects: dict[str, LoadedSubject],
    context: BenchContext,
    step: Callable[[str], None],
) -> list[Measurement]:
    """Measure all subjects at one batch size. `step` names each subject first, in case it crashes this process."""
    specs = {name: subject.session.spec for name, subject in subjects.items()}
    images = {name: spec.input.random(batch_size, spec.model.image_size) for name, spec in specs.items()}
    for name, subject in subjects.items():
        step(f"running {name} at batch size {batch_size}")
        _check_logits(name, subject.session.run(images[name]), (batch_size, len(subject.session.spec.model.classes)))
    step(f"measuring {', '.join(subjects)} at batch size {batch_size}")
    before = telemetry.read()
    timers = {
        name: context.clock.timer([subject.session.call(images[name], on_device=context.clock.on_device)])
        for name, subject in subjects.items()
    }
    samples = interleaved(timers, StopCondition(context.request.seconds, context.request.samples))
    activity = telemetry.between(before, telemetry.read())
    return [_measurement(name, subjects[name], samples[name], batch_size, context, activity) for name in subjects]


def _check_common_input(subjects: dict[str, LoadedSubject]) -> None:
    """Raise BadInput if the dtypes of the subjects' inputs differ; their image sizes may."""
    dtypes = {subject.session.spec.input.dtype for subject in subjects.values()}
    if len(dtypes) > 1:
        raise BadInput(
            f"the subjects have different input dtypes: {', '.join(sorted(dtypes))}",
            "export all of them with the same settings",
        )


def _measurement(
    name: str, subject: LoadedSubject, samples: Samples, batch_size: int, context: BenchContext, activity: Telemetry
) -> Measurement:
    alone = len(context.request.subjects) == 1
    return Measurement(
        subject=name,
        artifact_sha256=subject.session.spec.sha256,
        runtime=context.request.subjects[name].runtime,
        device=context.request.device,
        batch_size=batch_size,
        threads=context.threads,
        latency_ms=samples.latency_ms,
        warmup_ms=samples.warmup_ms,
        load_ms=subject.load_ms,
        peak_memory_bytes=telemetry.peak_memory_bytes() if alone else None,
        telemetry=activity,
        reasons=invalid_reasons(samples.latency_ms, context.request.samples, activity),
        clock=context.request.clock,
    )


def _validate(request: BenchRequest) -> None:
    """Raise BadInput for a request without subjects or batch sizes, or with sizes or threads below 1."""
    if not request.subjects:
        raise BadInput("there is nothing to measure", "name at least one model or exported file")
    if not request.batch_sizes or min(request.batch_sizes) < 1:
        raise BadInput(f"invalid batch sizes: {list(request.batch_sizes)}", "list one or more sizes of at least 1")
    if request.threads is not None and request.threads < 1:
        raise BadInput(f"invalid number of threads: {request.threads}", "use 1 or more")


def _check_logits(name: str, logits: np.ndarray, shape: tuple[int, int]) -> None:
    """Refuse wrong outputs; NaN/Inf arithmetic also has different timing."""
    if logits.shape != shape:
        raise CheckFailed(f"{name} outputs logits of shape {logits.shape}, expected {shape}")
    if not np.isfinite(logits).all():
        raise CheckFailed(f"{name} outputs logits that are not finite")


def _reserved_stdout() -> TextIO:
    """The real stdout, for the response only; from now on, library output goes to stderr, including that from C."""
    sys.stdout.flush()
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def _print_progress(done: int, total: int, message: str = "") -> None:
    print(progress_line(done, total, message), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
