"""Clocks through their protocol; GPU clocks use a GPU that is simulated at the CUDA boundary."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from toolkit.bench.clocks import Call, clock, host
from toolkit.errors import UnknownName
from toolkit.machine import cuda


def recorded(names: str) -> tuple[list[Call], list[str]]:
    """Calls that append their names to a list, and the list."""
    made: list[str] = []
    return [lambda name=name: made.append(name) for name in names], made  # type: ignore[misc]


def test_the_host_clock_times_one_call_per_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 1000, 7))
    monkeypatch.setattr(host, "now", lambda: next(ticks))
    calls, made = recorded("ab")
    timer = clock("host").timer(calls)
    assert [timer() for _ in range(3)] == [7] * 3
    assert made == ["a", "b", "a"]


def test_a_result_comes_with_its_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10, 80])
    monkeypatch.setattr(host, "now", lambda: next(ticks))
    assert host.timed(lambda: "opened") == ("opened", 70)


class Gpu:
    """CUDA streams, events and graphs of a GPU on which every call takes one millisecond."""

    def __init__(self) -> None:
        self.milliseconds = 0.0
        self.capturing: list[Call] | None = None

    def call(self) -> None:
        if self.capturing is not None:
            self.capturing.append(self.call)
        else:
            self.milliseconds += 1

    def event(self) -> Any:
        event = SimpleNamespace(at=0.0, close=lambda: None)
        event.record = lambda: setattr(event, "at", self.milliseconds)
        event.milliseconds_since = lambda start: event.at - start.at
        return event

    def synchronize(self) -> None: ...

    def graph(self, graph: Any) -> Any:
        gpu = self

        class Capture:
            def __enter__(self) -> None:
                gpu.capturing = graph.calls

            def __exit__(self, *_: object) -> None:
                gpu.capturing = None

        return Capture()

    def new_graph(self) -> Any:
        calls: list[Call] = []
        return SimpleNamespace(calls=calls, replay=lambda: [call() for call in calls])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(cuda, "runtime", lambda: gpu)
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: torch.inference_mode(),
        "set_stream": lambda stream: None,
        "CUDAGraph": gpu.new_graph,
        "graph": gpu.graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return gpu


@pytest.mark.parametrize("name", ["cuda-events", "cuda-graph"])
def test_a_sample_is_the_mean_of_enough_calls(name: str, gpu: Gpu) -> None:
    timer = clock(name).timer([gpu.call, gpu.call])
    before = gpu.milliseconds
    assert timer() == pytest.approx(1e6)
    assert gpu.milliseconds - before == 6  # five milliseconds at least, in rotations of two calls


@pytest.mark.parametrize("name", ["cuda-events", "cuda-graph"])
def test_a_failing_call_is_raised(name: str, gpu: Gpu) -> None:
    def failing() -> None:
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        clock(name).timer([failing])


def test_an_unknown_clock_suggests_the_closest() -> None:
    with pytest.raises(UnknownName, match="cuda-graph"):
        clock("cuda-graphs")
