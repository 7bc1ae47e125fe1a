"""Latency measurement: warm up, then take samples of every subject, interleaved.

A call is `Session.run`, from images in host memory to logits in host memory, or, for GPU clocks, from GPU memory to GPU
memory. Every call gets the same images: dense arithmetic takes the same time for all ordinary values, and creating new
images would disturb the caches between calls. Denormal, NaN and infinite values do change the time, so pass real images
or normally distributed values, and check that the logits are finite.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from toolkit.bench.clocks import Timer, host
from toolkit.errors import InvalidMeasurement

NS_PER_MS = 1e6
NS_PER_S = 1e9


@dataclass(frozen=True)
class StopCondition:
    """Minimum duration and number of samples; both must be reached, in warm-up and in measurement."""

    seconds: float
    """Duration for all subjects together."""
    samples: int
    """Samples of each subject."""
    warmup_seconds: float = 1.0
    warmup_samples: int = 5


@dataclass(frozen=True)
class Samples:
    """Duration of one call of a subject, in chronological order."""

    warmup_ms: tuple[float, ...]
    latency_ms: tuple[float, ...]
    """Sample i was taken in round i, for every subject."""


def interleaved(
    timers: Mapping[str, Timer], stop: StopCondition, now: Callable[[], int] = host.now
) -> dict[str, Samples]:
    """Samples of every subject: one each per round, in alternating order. `now` limits the duration, in nanoseconds.

    Interleaved subjects see the same clock frequency, temperature and competing processes, so that their ratio is valid
    even if these change during the measurement. The garbage collector is disabled meanwhile.
    """
    if not timers:
        raise InvalidMeasurement("there is nothing to measure")
    with _no_garbage_collection():
        warmups = _rounds(timers, stop.warmup_seconds, stop.warmup_samples, now)
        latencies = _rounds(timers, stop.seconds, stop.samples, now)
    return {name: Samples(_milliseconds(warmups[name]), _milliseconds(latencies[name])) for name in timers}


def order(names: Sequence[str], round_: int) -> list[str]:
    """Order of the subjects in a round: each rotation once forwards and once backwards.

    Two subjects run AB BA BA AB ..., so that neither position in a round nor a steady drift favours one of them.
    """
    shift = (round_ // 2) % len(names)
    rotated = [*names[shift:], *names[:shift]]
    return rotated[::-1] if round_ % 2 else rotated


def _rounds(
    timers: Mapping[str, Timer], seconds: float, samples: int, now: Callable[[], int]
) -> dict[str, list[float]]:
    """Samples in nanoseconds, round by round, until both minimums are reached."""
    durations: dict[str, list[float]] = {name: [] for name in timers}
    start, rounds = now(), 0
    while rounds < samples or now() - start < seconds * NS_PER_S:
        for name in order(list(timers), rounds):
            durations[name].append(timers[name]())
        rounds += 1
    return durations


def _milliseconds(nanoseconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(value / NS_PER_MS for value in nanoseconds)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
