"""Telemetry from procfs and sysfs: files written by hand, and the real ones of this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from toolkit import limits
from toolkit.bench import telemetry
from toolkit.bench.telemetry import Reading, between

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def reading(
    busy_s: float | None, total_s: float | None, process_s: float, throttle_events: int | None = None
) -> Reading:
    return Reading(busy_s, total_s, process_s, throttle_events, (41.5,), None, throttle_events)


def test_cpu_time_of_other_processes() -> None:
    """20 s of CPU time, 9 s of them busy, 6 s of those in this process."""
    activity = between(reading(100.0, 1000.0, 3.0), reading(109.0, 1020.0, 9.0))
    assert activity.cpu_share == pytest.approx(3.0 / 20.0)
    assert activity.temperature_c == (41.5,)


def test_different_clock_resolutions_give_no_negative_fraction() -> None:
    assert between(reading(0.0, 0.0, 0.0), reading(1.0, 2.0, 1.01)).cpu_share == 0.0


@pytest.mark.parametrize("total_s", [None, 5.0])
def test_an_unknown_or_unchanged_total_gives_no_fraction(total_s: float | None) -> None:
    assert between(reading(1.0, total_s, 0.0), reading(1.0, total_s, 0.0)).cpu_share is None


def test_throttling_is_detected_by_a_rising_counter() -> None:
    def throttled(before: int | None, after: int | None) -> bool | None:
        activity = between(reading(0, 0, 0, before), reading(0, 0, 0, after))
        assert activity.throttled == activity.gpu_throttled
        return activity.throttled

    assert throttled(4, 5) is True
    assert throttled(4, 4) is False
    assert throttled(None, None) is None


def test_missing_system_files_are_no_error(tmp_path: Path) -> None:
    sample = telemetry.read(tmp_path, tmp_path)
    assert (sample.busy_s, sample.total_s, sample.throttle_events, sample.temperature_c) == (None, None, None, ())
    assert telemetry.peak_memory_bytes(tmp_path) is None


def test_procfs_and_sysfs_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

    sample = telemetry.read(tmp_path, tmp_path)
    assert sample.busy_s == pytest.approx(2 * 12.0)
    assert sample.total_s == pytest.approx(2 * 19.0)
    assert sample.throttle_events == 7
    assert sample.temperature_c == (51.5,)
    assert telemetry.peak_memory_bytes(tmp_path) == 2048 * 1024


@LINUX
def test_telemetry_of_this_machine() -> None:
    before = telemetry.read()
    total = 0
    while telemetry.read().process_s - before.process_s < 0.1:
        total += sum(range(10_000))
    activity = between(before, telemetry.read())
    assert total > 0
    assert activity.cpu_share is not None
    assert 0.0 <= activity.cpu_share <= 1.0
    peak = telemetry.peak_memory_bytes()
    assert peak is not None
    assert peak > 10_000_000
