"""Linux's own files, written by hand, and this machine's real ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from toolkit import limits
from toolkit.bench import telemetry
from toolkit.bench.telemetry import Reading, between

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def reading(busy_s: float | None, total_s: float | None, own_s: float, throttle_events: int | None = None) -> Reading:
    return Reading(busy_s, total_s, own_s, throttle_events, (41.5,))


def test_the_share_of_others_is_what_this_process_did_not_use() -> None:
    """20 s of two cores: 9 s busy, 6 of them ours."""
    seen = between(reading(100.0, 1000.0, 3.0), reading(109.0, 1020.0, 9.0), load_average=0.25)
    assert seen.cpu_share == pytest.approx(3.0 / 20.0)
    assert seen.load_average == 0.25
    assert seen.temperature_c == (41.5,)


def test_clocks_that_tick_apart_give_no_negative_share() -> None:
    assert between(reading(0.0, 0.0, 0.0), reading(1.0, 2.0, 1.01), None).cpu_share == 0.0


@pytest.mark.parametrize("total_s", [None, 5.0])
def test_an_unknown_or_standing_clock_gives_no_share(total_s: float | None) -> None:
    assert between(reading(1.0, total_s, 0.0), reading(1.0, total_s, 0.0), None).cpu_share is None


def test_throttling_is_a_counter_that_rose() -> None:
    def throttled(before: int | None, after: int | None) -> bool | None:
        return between(reading(0, 0, 0, before), reading(0, 0, 0, after), None).throttled

    assert throttled(4, 5) is True
    assert throttled(4, 4) is False
    assert throttled(None, None) is None


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    found = telemetry.read(tmp_path, tmp_path)
    assert (found.busy_s, found.total_s, found.throttle_events, found.temperature_c) == (None, None, None, ())
    assert telemetry.peak_memory_bytes(tmp_path) is None


def test_linux_files_are_read_by_their_manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "usable_cores", lambda: frozenset({0, 2}))
    ticks = os.sysconf("SC_CLK_TCK")
    rows = ["cpu  9 9 9 9 9 9 9 9 0 0"]
    #        user nice system idle iowait irq softirq steal guest guest_nice
    rows += [f"cpu{core} {10 * ticks} 0 {ticks} {5 * ticks} {2 * ticks} 0 0 {ticks} {7 * ticks} 0" for core in range(4)]
    (tmp_path / "stat").write_text("\n".join([*rows, "intr 1 2 3"]))
    zone = tmp_path / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("51500\n")
    for core, count in enumerate((3, 4)):
        folder = tmp_path / f"devices/system/cpu/cpu{core}/thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n")

    found = telemetry.read(tmp_path, tmp_path)
    assert found.busy_s == pytest.approx(2 * 12.0)
    assert found.total_s == pytest.approx(2 * 19.0)
    assert found.throttle_events == 7
    assert found.temperature_c == (51.5,)
    assert telemetry.peak_memory_bytes(tmp_path) == 2048 * 1024


@LINUX
def test_this_machine_is_read() -> None:
    before = telemetry.read()
    burnt = 0
    while telemetry.read().own_s - before.own_s < 0.1:
        burnt += sum(range(10_000))
    seen = between(before, telemetry.read(), telemetry.load_average())
    assert burnt > 0
    assert seen.cpu_share is not None
    assert 0.0 <= seen.cpu_share <= 1.0
    assert seen.load_average is not None
    peak = telemetry.peak_memory_bytes()
    assert peak is not None
    assert peak > 10_000_000
