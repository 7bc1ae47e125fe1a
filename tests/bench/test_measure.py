"""Call order with real onnxruntime sessions, and durations with a fake clock."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest

from toolkit.bench import measure
from toolkit.bench.measure import StopCondition, order, time_interleaved, timed_open
from toolkit.bench.runtimes import Session, runtime
from toolkit.errors import InvalidMeasurement

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
SHORT = StopCondition(seconds=0.0, samples=8, warmup_seconds=0.0, warmup_samples=2)


class Recorded:
    """A real session that records its calls and whether the garbage collector was enabled."""

    def __init__(self, name: str, session: Session, calls: list[tuple[str, bool]]) -> None:
        self.name, self.session, self.calls = name, session, calls

    def run(self, images: np.ndarray) -> np.ndarray:
        self.calls.append((self.name, gc.isenabled()))
        return self.session.run(images)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@pytest.fixture
def sessions(folders: Path) -> Iterator[dict[str, Session]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(runtime("onnxruntime").open(folders / f"{name}-onnx", threads=1))
            for name in ("dense", "slim")
        }


def test_two_subjects_run_ab_ba_ba_ab() -> None:
    assert ["".join(order("AB", round_)) for round_ in range(4)] == ["AB", "BA", "BA", "AB"]


@pytest.mark.parametrize("names", ["A", "AB", "ABC", "ABCD"])
def test_every_subject_is_equally_often_at_every_position(names: str) -> None:
    positions = Counter(
        (name, position) for round_ in range(2 * len(names)) for position, name in enumerate(order(names, round_))
    )
    assert len(positions) == len(names) ** 2
    assert set(positions.values()) == {2}


def test_each_round_runs_every_subject_once_in_order(sessions: dict[str, Session]) -> None:
    calls: list[tuple[str, bool]] = []
    recorded = {name: Recorded(name, session, calls) for name, session in sessions.items()}
    samples = time_interleaved(recorded, IMAGES, SHORT)
    names = [name for name, _ in calls]
    assert names[:4] == ["dense", "slim", "slim", "dense"]  # warm-up, two calls each
    assert names[4:] == [name for round_ in range(8) for name in order(["dense", "slim"], round_)]
    assert {name: (len(result.warmup_ms), len(result.latency_ms)) for name, result in samples.items()} == {
        "dense": (2, 8),
        "slim": (2, 8),
    }
    assert all(value > 0 for result in samples.values() for value in result.latency_ms + result.warmup_ms)


def test_the_garbage_collector_is_disabled_while_measuring(sessions: dict[str, Session]) -> None:
    calls: list[tuple[str, bool]] = []
    assert gc.isenabled()
    time_interleaved({"slim": Recorded("slim", sessions["slim"], calls)}, IMAGES, SHORT)
    assert not any(enabled for _, enabled in calls)
    assert gc.isenabled()
    with pytest.raises(Exception, match="images"):  # onnxruntime refuses images of the wrong size
        time_interleaved(sessions, IMAGES[:, :, :8, :8], SHORT)
    assert gc.isenabled()


class FakeClock:
    """A clock that replaces the real one and advances only by the durations of its subjects."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ns = 0
        monkeypatch.setattr(measure, "perf_counter_ns", lambda: self.ns)

    def subject(self, milliseconds: int) -> Session:
        clock = self

        class Slow(Recorded):
            def run(self, images: np.ndarray) -> np.ndarray:
                clock.ns += milliseconds * 1_000_000
                return images

        return Slow("", None, [])  # type: ignore[arg-type]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


def test_duration_and_count_must_both_be_reached(clock: FakeClock) -> None:
    subjects = {"dense": clock.subject(5), "slim": clock.subject(2)}
    by_count = time_interleaved(subjects, IMAGES, SHORT)
    assert len(by_count["slim"].latency_ms) == len(by_count["dense"].latency_ms) == 8
    stop = StopCondition(seconds=0.3, samples=1, warmup_seconds=0.1, warmup_samples=1)
    by_time = time_interleaved(subjects, IMAGES, stop)
    assert [len(by_time[name].latency_ms) for name in subjects] == [43, 43], "300 ms in rounds of 7 ms"
    assert [len(by_time[name].warmup_ms) for name in subjects] == [15, 15]


def test_latency_is_the_time_that_passes_during_a_call(clock: FakeClock) -> None:
    samples = time_interleaved({"dense": clock.subject(5), "slim": clock.subject(2)}, IMAGES, SHORT)
    assert samples["dense"].latency_ms == (5.0,) * 8
    assert samples["slim"].latency_ms == (2.0,) * 8


def test_opening_is_timed(clock: FakeClock) -> None:
    def opening() -> Session:
        clock.ns += 70_000_000
        return clock.subject(1)

    assert timed_open(opening)[1] == 70.0


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(InvalidMeasurement):
        time_interleaved({}, IMAGES, SHORT)
