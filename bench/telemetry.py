"""CPU usage, throttling and temperature during a measurement, from procfs and sysfs; None where unavailable.

Take a `Reading` before and after; `between` computes the difference. Uses the standard library only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from toolkit import limits
from toolkit.limits import PROC, SYS, text_of
from toolkit.machine import nvidia
from toolkit.records import GpuState, Telemetry


@dataclass(frozen=True)
class Reading:
    """Snapshot of monotonic counters and temperatures."""

    busy_s: float | None
    """Busy CPU time of all usable cores."""
    total_s: float | None
    """CPU time of all usable cores, including idle time."""
    process_s: float
    """CPU time of all threads of this process."""
    throttle_events: int | None
    """Thermal throttle events."""
    temperature_c: tuple[float, ...]
    gpu: GpuState | None
    gpu_throttled_ns: int | None
    """Time during which the GPU's clocks were lowered due to heat."""


def read(proc: Path = PROC, sys: Path = SYS) -> Reading:
    """Take a reading."""
    busy_s, total_s = _cpu_time(proc)
    process = os.times()
    return Reading(
        busy_s,
        total_s,
        process.user + process.system,
        _throttle_events(sys),
        _temperatures(sys),
        nvidia.state(),
        nvidia.throttled_ns(),
    )


def between(before: Reading, after: Reading) -> Telemetry:
    """Activity between two readings, with the temperatures of the second."""
    return Telemetry(
        _other_cpu_fraction(before, after),
        after.temperature_c,
        _increased(before.throttle_events, after.throttle_events),
        after.gpu,
        _increased(before.gpu_throttled_ns, after.gpu_throttled_ns),
    )


def peak_memory_bytes(proc: Path = PROC) -> int | None:
    """Peak resident memory of this process.

    `getrusage` is unsuitable: its value survives `exec`, so a child process would report the peak of its parent.
    """
    for line in text_of(proc / "self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _increased(before: int | None, after: int | None) -> bool | None:
    """Whether a counter has increased; None if it is unknown."""
    return None if before is None or after is None else after > before


def _other_cpu_fraction(before: Reading, after: Reading) -> float | None:
    """CPU time of other processes, and steal time, as a fraction of the total."""
    if before.busy_s is None or before.total_s is None or after.busy_s is None or after.total_s is None:
        return None
    total = after.total_s - before.total_s
    if total <= 0:
        return None
    others = (after.busy_s - before.busy_s) - (after.process_s - before.process_s)
    return min(1.0, max(0.0, others / total))  # the two clocks differ by up to 10 ms


def _cpu_time(proc: Path) -> tuple[float | None, float | None]:
    """(busy, total) seconds of the usable cores from /proc/stat (proc_stat(5))."""
    usable = {f"cpu{core}" for core in limits.usable_cores()}
    busy = total = 0
    for line in text_of(proc / "stat").splitlines():
        name, *fields = line.split()
        if name in usable:
            ticks = [int(field) for field in fields[:8]]  # the remaining fields, guest time, are part of user time
            idle = ticks[3] + ticks[4]  # idle, iowait
            busy += sum(ticks) - idle
            total += sum(ticks)
    if total == 0:
        return None, None
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    return busy / ticks_per_second, total / ticks_per_second


def _throttle_events(sys: Path) -> int | None:
    files = sorted(sys.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"))
    counts = [text for text in map(text_of, files) if text]
    return sum(int(text) for text in counts) if counts else None


def _temperatures(sys: Path) -> tuple[float, ...]:
    texts = [text_of(file) for file in sorted(sys.glob("class/thermal/thermal_zone*/temp"))]
    return tuple(int(text) / 1000 for text in texts if text)
