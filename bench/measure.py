"""Latency measurement: warm up, then time every call, with the subjects interleaved. No other module takes latencies.

A call is `Session.run`, from images in host memory to logits in host memory. Every call gets the same images: dense
arithmetic takes the same time for all ordinary values, and creating new images would disturb the caches between calls.
Denormal, NaN and infinite values do change the time, so pass real images or normally distributed values, and check that
the logits are finite.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from toolkit.bench.runtimes import Session
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
    """Duration of every call of one subject, in chronological order."""

    warmup_ms: tuple[float, ...]
    latency_ms: tuple[float, ...]
    """Sample i was taken in round i, for every subject."""


def timed_open(open_session: Callable[[], Session]) -> tuple[Session, float]:
    """Open a session; returns it and the time that opening took, in milliseconds."""
    start = perf_counter_ns()
    session = open_session()
    return session, (perf_counter_ns() - start) / NS_PER_MS


def time_interleaved(sessions: Mapping[str, Session], images: np.ndarray, stop: StopCondition) -> dict[str, Samples]:
    """Time every session on `images` [batch, 3, S, S]: one call each per round, in alternating order.

    Interleaved subjects see the same clock frequency, temperature and competing processes, so that their ratio is valid
    even if these change during the measurement. The garbage collector is disabled meanwhile.
    """
    if not sessions:
        raise InvalidMeasurement("there is nothing to measure")
    with _no_garbage_collection():
        warmups = _rounds(sessions, images, stop.warmup_seconds, stop.warmup_samples)
        latencies = _rounds(sessions, images, stop.seconds, stop.samples)
    return {name: Samples(_milliseconds(warmups[name]), _milliseconds(latencies[name])) for name in sessions}


def order(names: Sequence[str], round_: int) -> list[str]:
    """Order of the subjects in a round: each rotation once forwards and once backwards.

    Two subjects run AB BA BA AB ..., so that neither position in a round nor a steady drift favours one of them.
    """
    shift = (round_ // 2) % len(names)
    rotated = [*names[shift:], *names[:shift]]
    return rotated[::-1] if round_ % 2 else rotated


def _rounds(sessions: Mapping[str, Session], images: np.ndarray, seconds: float, samples: int) -> dict[str, list[int]]:
    """Duration of every call in nanoseconds, round by round, until both minimums are reached."""
    durations: dict[str, list[int]] = {name: [] for name in sessions}
    start, rounds = perf_counter_ns(), 0
    while rounds < samples or perf_counter_ns() - start < seconds * NS_PER_S:
        for name in order(list(sessions), rounds):
            durations[name].append(_timed(sessions[name], images))
        rounds += 1
    return durations


def _timed(session: Session, images: np.ndarray) -> int:
    """Duration of one call in nanoseconds."""
    start = perf_counter_ns()
    session.run(images)
    return perf_counter_ns() - start


def _milliseconds(nanoseconds: Sequence[int]) -> tuple[float, ...]:
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
