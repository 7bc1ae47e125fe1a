"""The only clock in the project: warm up, then time every call, subjects side by side.

What is timed is `Session.run`: images in the process's memory to logits in the process's memory. The same images are
used for every call. Dense arithmetic takes the same time for any ordinary values, so nothing is gained from fresh
images, while making them would disturb the caches between the calls. (Values that are not ordinary, denormal numbers
above all, do change the time: give images, or normal random numbers, and check that the logits are finite.)
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
class Load:
    """How long to measure. Both the time and the number of calls must be reached, in warm-up and in measurement."""

    seconds: float
    """For all subjects together."""
    samples: int
    """For each subject."""
    warmup_seconds: float = 1.0
    warmup_samples: int = 5


@dataclass(frozen=True)
class Samples:
    """Duration of every call of one subject, in the order they were made."""

    warmup_ms: tuple[float, ...]
    latency_ms: tuple[float, ...]
    """Sample i of every subject was taken in round i."""


def opened(open_session: Callable[[], Session]) -> tuple[Session, float]:
    """A session, and the milliseconds from the call until it was ready."""
    start = perf_counter_ns()
    session = open_session()
    return session, (perf_counter_ns() - start) / NS_PER_MS


def interleaved(sessions: Mapping[str, Session], images: np.ndarray, load: Load) -> dict[str, Samples]:
    """Time every session on `images` [batch, 3, S, S]: one call each per round, in changing order.

    Side by side, all subjects see the same clock rate, temperature and neighbours, so that their ratio holds even where
    the machine changes. The garbage collector is off meanwhile.
    """
    if not sessions:
        raise InvalidMeasurement("there is nothing to measure")
    with _no_garbage_collection():
        warmups = _rounds(sessions, images, load.warmup_seconds, load.warmup_samples)
        latencies = _rounds(sessions, images, load.seconds, load.samples)
    return {name: Samples(_milliseconds(warmups[name]), _milliseconds(latencies[name])) for name in sessions}


def order(names: Sequence[str], round_: int) -> list[str]:
    """Order of the subjects in a round: every rotation, forwards and backwards in turn.

    Two subjects run AB BA BA AB ..., so that neither gains from its place or from a steady drift.
    """
    shift = (round_ // 2) % len(names)
    rotated = [*names[shift:], *names[:shift]]
    return rotated[::-1] if round_ % 2 else rotated


def _rounds(sessions: Mapping[str, Session], images: np.ndarray, seconds: float, samples: int) -> dict[str, list[int]]:
    """Nanoseconds of every call, round after round, until both bounds are reached."""
    durations: dict[str, list[int]] = {name: [] for name in sessions}
    start, rounds = perf_counter_ns(), 0
    while rounds < samples or perf_counter_ns() - start < seconds * NS_PER_S:
        for name in order(list(sessions), rounds):
            durations[name].append(_timed(sessions[name], images))
        rounds += 1
    return durations


def _timed(session: Session, images: np.ndarray) -> int:
    """Nanoseconds of one call."""
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
