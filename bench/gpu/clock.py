"""GPU timing with CUDA events: interleaved subjects, in CUDA graphs or in a stream; and a monitor of the GPU."""

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
"""Times each subject, given as equivalent calls on different inputs."""
ROUNDS = 30
MIN_INTERVAL_MS = 5.0
"""Minimum time between two CUDA events (ms), ~1000x their resolution."""
WARM_UP_CALLS = 5
QUERY = "clocks.sm,clocks.mem,temperature.gpu,power.draw"


@dataclass
class Times:
    """Time per call of each subject in microseconds, round by round, or the error of a subject that failed."""

    us: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def in_graphs(subjects: Mapping[str, Sequence[Call]]) -> Times:
    """Time calls without CPU overhead: they are captured into a CUDA graph and replayed."""
    return _timed(subjects, _graph)


def in_stream(subjects: Mapping[str, Sequence[Call]]) -> Times:
    """Time calls launched from Python, including launch overhead where the CPU is the bottleneck."""
    return _timed(subjects, _loop)


def _timed(subjects: Mapping[str, Sequence[Call]], repeat: Callable[[Sequence[Call], int], Call]) -> Times:
    times, replays, counts = Times(), dict[str, Call](), dict[str, int]()
    for name, calls in subjects.items():
        stream = torch.cuda.current_stream()
        try:
            for call in [*calls] * WARM_UP_CALLS:
                call()
            once = repeat(calls, len(calls))
            once()
            counts[name] = len(calls) * max(1, math.ceil(MIN_INTERVAL_MS / _milliseconds(once)))
            replays[name] = repeat(calls, counts[name])
            replays[name]()
        except Exception as error:  # an unsupported backend, a kernel that does not compile
            times.errors[name] = summary_of(error.__context__ or error)
            torch.cuda.set_stream(stream)  # a failed capture does not restore it
    for round_ in range(ROUNDS):
        for name in order([name for name in subjects if name in replays], round_):
            times.us.setdefault(name, []).append(1e3 * _milliseconds(replays[name]) / counts[name])
    return times


def summary_of(error: BaseException) -> str:
    """Class and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def _loop(calls: Sequence[Call], count: int) -> Call:
    def run() -> None:
        for index in range(count):
            calls[index % len(calls)]()

    return run


def _graph(calls: Sequence[Call], count: int) -> Call:
    graph = torch.cuda.CUDAGraph()
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for call in calls:  # one-time setup on this stream must not be captured
            call()
    torch.cuda.current_stream().wait_stream(side_stream)
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
def gpu_monitor() -> Iterator[list[dict[str, float]]]:
    """Sample clocks (MHz), temperature (C) and power (W) twice per second with nvidia-smi.

    Yields a list that is filled on exit; it stays empty without nvidia-smi.
    """
    samples: list[dict[str, float]] = []
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits", "-lms", "500"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        yield samples
        return
    try:
        yield samples
    finally:
        process.terminate()
        lines, _ = process.communicate()
        for line in lines.splitlines():
            values = line.split(", ")
            if len(values) == len(QUERY.split(",")) and all(value.replace(".", "").isdecimal() for value in values):
                samples.append(dict(zip(QUERY.split(","), map(float, values), strict=True)))


def copy_bandwidth() -> float:
    """Achievable memory bandwidth in bytes per second: reads plus writes of a device-to-device copy."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    destination = torch.empty_like(source)
    times = in_graphs({"copy": [lambda: destination.copy_(source)]})
    return 2 * source.numel() / (median(times.us["copy"]) * 1e-6)


def nominal_bandwidth() -> float:
    """Theoretical memory bandwidth in bytes per second, at two transfers per memory clock."""
    gpu = torch.cuda.get_device_properties(0)
    return 2 * gpu.memory_clock_rate * 1e3 * gpu.memory_bus_width / 8
