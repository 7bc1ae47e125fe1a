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
from toolkit.bench.identity import Identity, identify
from toolkit.bench.measure import Samples, StopCondition, time_interleaved, timed_open
from toolkit.bench.messages import BenchRequest, Failure, Subject, progress_line
from toolkit.bench.runtimes import Session, described, runtime
from toolkit.bench.validity import invalid_reasons
from toolkit.errors import BadInput, CheckFailed, ToolkitError
from toolkit.progress import Progress, silent
from toolkit.records import BenchReport, Environment, Measurement, Telemetry


@dataclass(frozen=True)
class LoadedSubject:
    """A subject whose session is open."""

    session: Session
    identity: Identity
    load_ms: float


@dataclass(frozen=True)
class BenchContext:
    """Everything that the measurements of one request have in common."""

    request: BenchRequest
    threads: int
    environment: Environment
    load_average: float | None


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
    load_average = telemetry.load_average()
    _validate(request)
    threads = request.threads or limits.cores()
    needs = [need for subject in request.subjects.values() for need in described(subject.runtime).needs]
    captured = environment.capture((*request.libraries, *needs))
    context = BenchContext(request, threads, captured, load_average)
    measurements: list[Measurement] = []
    total = len(request.batch_sizes)
    with ExitStack() as stack:
        subjects = {}
        for name, subject in request.subjects.items():
            progress(0, total, f"opening {name} in {subject.runtime}")
            subjects[name] = _load(subject, threads, stack)
        image_size = _common_image_size(subjects)
        for loaded in subjects.values():
            for batch_size in request.batch_sizes:
                loaded.identity.check_batch(batch_size)
        for done, batch_size in enumerate(request.batch_sizes):
            step = partial(progress, done, total)
            measurements += _measure_batch_size(batch_size, image_size, subjects, context, step)
        progress(total, total, "measured")
    return BenchReport(tuple(measurements))


def _load(subject: Subject, threads: int, stack: ExitStack) -> LoadedSubject:
    folder = Path(subject.folder)
    identity = identify(folder, validated=True)
    library = runtime(subject.runtime, subject.settings)
    with library.open(folder, threads):
        pass  # Warm up: one-time library initialisation must not be charged to the first subject.
    session, load_ms = timed_open(lambda: library.open(folder, threads))
    return LoadedSubject(stack.enter_context(session), identity, load_ms)


def _measure_batch_size(
    batch_size: int,
    image_size: int,
    subjects: dict[str, LoadedSubject],
    context: BenchContext,
    step: Callable[[str], None],
) -> list[Measurement]:
    """Measure all subjects at one batch size. `step` names each subject first, in case it crashes this process."""
    shape = (batch_size, 3, image_size, image_size)
    images = _random_images(shape, {subject.identity.dtype for subject in subjects.values()})
    for name, subject in subjects.items():
        step(f"running {name} at batch size {batch_size}")
        _check_logits(name, subject.session.run(images), (batch_size, len(subject.identity.model.classes)))
    step(f"measuring {', '.join(subjects)} at batch size {batch_size}")
    before = telemetry.read()
    sessions = {name: subject.session for name, subject in subjects.items()}
    stop = StopCondition(context.request.seconds, context.request.samples)
    samples = time_interleaved(sessions, images, stop)
    activity = telemetry.between(before, telemetry.read(), context.load_average)
    return [_measurement(name, subjects[name], samples[name], batch_size, context, activity) for name in subjects]


def _random_images(shape: tuple[int, ...], dtypes: set[str]) -> np.ndarray:
    """Random images [batch, 3, S, S] of the input dtype that all subjects share."""
    if len(dtypes) > 1:
        raise BadInput(
            f"the subjects have different input dtypes: {', '.join(sorted(dtypes))}",
            "export all of them with the same settings",
        )
    rng = np.random.default_rng(0)
    if dtypes == {"uint8"}:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape, dtype=np.float32)


def _measurement(
    name: str, subject: LoadedSubject, samples: Samples, batch_size: int, context: BenchContext, activity: Telemetry
) -> Measurement:
    alone = len(context.request.subjects) == 1
    return Measurement(
        subject=name,
        artifact_sha256=subject.identity.sha256,
        runtime=context.request.subjects[name].runtime,
        device=context.request.device,
        scenario="latency",
        batch_size=batch_size,
        threads=context.threads,
        latency_ms=samples.latency_ms,
        warmup_ms=samples.warmup_ms,
        load_ms=subject.load_ms,
        peak_memory_bytes=telemetry.peak_memory_bytes() if alone else None,
        energy_j=None,
        telemetry=activity,
        environment=context.environment,
        reasons=invalid_reasons(samples.latency_ms, context.request.samples, activity),
    )


def _validate(request: BenchRequest) -> None:
    """Raise BadInput for a request without subjects or batch sizes, or with sizes or threads below 1."""
    if not request.subjects:
        raise BadInput("there is nothing to measure", "name at least one model or exported file")
    if not request.batch_sizes or min(request.batch_sizes) < 1:
        raise BadInput(f"invalid batch sizes: {list(request.batch_sizes)}", "list one or more sizes of at least 1")
    if request.threads is not None and request.threads < 1:
        raise BadInput(f"invalid number of threads: {request.threads}", "use 1 or more")


def _common_image_size(subjects: dict[str, LoadedSubject]) -> int:
    """Common input size (height and width); raises BadInput if the subjects differ."""
    sizes = {name: subject.identity.model.image_size for name, subject in subjects.items()}
    if len(set(sizes.values())) > 1:
        raise BadInput(f"subjects with different input sizes cannot be compared: {sizes}", "measure them one by one")
    return next(iter(sizes.values()))


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
