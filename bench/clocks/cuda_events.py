"""CUDA events around many calls in a stream, including launch overhead where the CPU is the bottleneck."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeAlias

from toolkit.bench.clocks import Call, Clock, Timer
from toolkit.machine import cuda

MIN_INTERVAL_NS = 5e6
"""Minimum time between two events: about 1000 times their resolution."""
WARM_UP_ROUNDS = 5

Repeat: TypeAlias = Callable[[Sequence[Call], int], Call]
"""(calls, count) -> one function that makes `count` calls, in rotation"""


class CudaEvents:
    """Calls launched from Python."""

    on_device = True

    def timer(self, calls: Sequence[Call]) -> Timer:
        return interval_timer(calls, repeated)


def interval_timer(calls: Sequence[Call], repeat: Repeat) -> Timer:
    """A timer whose samples are means over enough calls to take at least MIN_INTERVAL_NS."""
    for call in itertools.chain.from_iterable([calls] * WARM_UP_ROUNDS):
        call()
    once = repeat(calls, len(calls))
    once()
    count = len(calls) * max(1, math.ceil(MIN_INTERVAL_NS / nanoseconds(once)))
    run = repeat(calls, count)
    run()
    return lambda: nanoseconds(run) / count


def repeated(calls: Sequence[Call], count: int) -> Call:
    """One function that makes `count` calls, in rotation."""

    def run() -> None:
        for index in range(count):
            calls[index % len(calls)]()

    return run


def nanoseconds(run: Call) -> float:
    """Time on the GPU between the start and the end of `run`."""
    with closing(cuda.runtime().event()) as start, closing(cuda.runtime().event()) as end:
        cuda.runtime().synchronize()
        start.record()
        run()
        end.record()
        return 1e6 * end.milliseconds_since(start)


PLUGIN: Clock = CudaEvents()
