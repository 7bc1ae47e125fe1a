"""Time on a GPU: CUDA graphs of many calls, subjects side by side, and what the GPU did meanwhile."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch

from toolkit.bench.measure import order

Call = Callable[[], object]
Clock = Callable[[Mapping[str, Sequence[Call]]], "Times"]
"""Subjects, each as calls that do the same with other data -> how long one call takes."""
ROUNDS = 30
REPLAY_MS = 5.0
"""So long takes what is timed between two events: a thousand times their resolution."""
WARM_UP_CALLS = 5
QUERY = "clocks.sm,clocks.mem,temperature.gpu,power.draw"


@dataclass
class Times:
    """Microseconds of a call of each subject, round by round, and why a subject has none."""

    us: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def in_graphs(subjects: Mapping[str, Sequence[Call]]) -> Times:
    """Without the processor's part: calls are captured, one after the other, and replayed."""
    return _timed(subjects, _graph)


def in_stream(subjects: Mapping[str, Sequence[Call]]) -> Times:
    """As a program calls them: where the processor is slower than the GPU, that is part of it."""
    return _timed(subjects, _loop)


def _timed(subjects: Mapping[str, Sequence[Call]], repeated: Callable[[Sequence[Call], int], Call]) -> Times:
    found, replays, counts = Times(), dict[str, Call](), dict[str, int]()
    for name, calls in subjects.items():
        stream = torch.cuda.current_stream()
        try:
            for call in [*calls] * WARM_UP_CALLS:
                call()
            once = repeated(calls, len(calls))
            once()
            counts[name] = len(calls) * max(1, math.ceil(REPLAY_MS / _milliseconds(once)))
            replays[name] = repeated(calls, counts[name])
            replays[name]()
        except Exception as error:  # a backend that does not take this, a kernel that does not compile
            found.errors[name] = said_by(error.__context__ or error)
            torch.cuda.set_stream(stream)  # which a failed capture leaves at its own
    for round_ in range(ROUNDS):
        for name in order([name for name in subjects if name in replays], round_):
            found.us.setdefault(name, []).append(1e3 * _milliseconds(replays[name]) / counts[name])
    return found


def said_by(error: BaseException) -> str:
    """Kind and first line."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def _loop(calls: Sequence[Call], count: int) -> Call:
    def run() -> None:
        for index in range(count):
            calls[index % len(calls)]()

    return run


def _graph(calls: Sequence[Call], count: int) -> Call:
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:  # what is set up at the first call on a stream is not to be captured
            call()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        _loop(calls, count)()
    return graph.replay


def _milliseconds(run: Call) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


@contextmanager
def watched() -> Iterator[list[dict[str, float]]]:
    """Clocks (MHz), temperature (C) and power (W) twice a second, from nvidia-smi; empty where there is none."""
    found: list[dict[str, float]] = []
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits", "-lms", "500"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        yield found
        return
    try:
        yield found
    finally:
        process.terminate()
        lines, _ = process.communicate()
        for line in lines.splitlines():
            values = line.split(", ")
            if len(values) == len(QUERY.split(",")) and all(value.replace(".", "").isdecimal() for value in values):
                found.append(dict(zip(QUERY.split(","), map(float, values), strict=True)))


def copy_bandwidth() -> float:
    """Bytes per second that a copy on the GPU moves, read and written: the floor that memory really has."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    times = in_graphs({"copy": [lambda: target.copy_(source)]})
    return 2 * source.numel() / (median(times.us["copy"]) * 1e-6)


def nominal_bandwidth() -> float:
    """Bytes per second of the memory's own clock: two transfers in each."""
    gpu = torch.cuda.get_device_properties(0)
    return 2 * gpu.memory_clock_rate * 1e3 * gpu.memory_bus_width / 8
