"""Order and number of samples, from timers with literal durations."""

from __future__ import annotations

import gc
from collections import Counter

import pytest

from toolkit.bench.clocks import Timer
from toolkit.bench.measure import StopCondition, interleaved, order
from toolkit.errors import InvalidMeasurement

SHORT = StopCondition(seconds=0.0, samples=8, warmup_seconds=0.0, warmup_samples=2)


def taking(milliseconds: float) -> Timer:
    return lambda: milliseconds * 1e6


def test_two_subjects_run_ab_ba_ba_ab() -> None:
    assert ["".join(order("AB", round_)) for round_ in range(4)] == ["AB", "BA", "BA", "AB"]


@pytest.mark.parametrize("names", ["A", "AB", "ABC", "ABCD"])
def test_every_subject_is_equally_often_at_every_position(names: str) -> None:
    positions = Counter(
        (name, position) for round_ in range(2 * len(names)) for position, name in enumerate(order(names, round_))
    )
    assert len(positions) == len(names) ** 2
    assert set(positions.values()) == {2}


def test_each_round_times_every_subject_once_in_order() -> None:
    calls: list[str] = []

    def recorded(name: str) -> Timer:
        return lambda: float(not calls.append(name))

    samples = interleaved({name: recorded(name) for name in ("dense", "slim")}, SHORT)
    assert calls[:4] == ["dense", "slim", "slim", "dense"]  # warm-up, two samples each
    assert calls[4:] == [name for round_ in range(8) for name in order(["dense", "slim"], round_)]
    assert {name: (len(result.warmup_ms), len(result.latency_ms)) for name, result in samples.items()} == {
        "dense": (2, 8),
        "slim": (2, 8),
    }


def test_the_garbage_collector_is_disabled_while_measuring() -> None:
    enabled: list[bool] = []

    def failing() -> float:
        enabled.append(gc.isenabled())
        if len(enabled) == 3:
            raise RuntimeError("out of memory")
        return 1.0

    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="out of memory"):
        interleaved({"slim": failing}, SHORT)
    assert enabled == [False] * 3
    assert gc.isenabled()


def test_duration_and_count_must_both_be_reached() -> None:
    time = 0

    def passing(milliseconds: int) -> Timer:
        def take() -> float:
            nonlocal time
            time += milliseconds * 1_000_000
            return 1.0

        return take

    timers = {"dense": passing(5), "slim": passing(2)}
    by_count = interleaved(timers, SHORT, lambda: time)
    assert len(by_count["slim"].latency_ms) == len(by_count["dense"].latency_ms) == 8
    stop = StopCondition(seconds=0.3, samples=1, warmup_seconds=0.1, warmup_samples=1)
    by_time = interleaved(timers, stop, lambda: time)
    assert [len(by_time[name].latency_ms) for name in timers] == [43, 43], "300 ms in rounds of 7 ms"
    assert [len(by_time[name].warmup_ms) for name in timers] == [15, 15]


def test_samples_are_in_milliseconds() -> None:
    samples = interleaved({"dense": taking(5), "slim": taking(2.5)}, SHORT)
    assert samples["dense"].latency_ms == (5.0,) * 8
    assert samples["slim"].latency_ms == (2.5,) * 8


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(InvalidMeasurement):
        interleaved({}, SHORT)
