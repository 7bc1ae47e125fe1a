"""What the machine does while it measures, read from Linux's own files; None where a machine does not tell.

Take a `Reading` before and after, and `between` says what happened meanwhile. Standard library only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from toolkit import limits
from toolkit.limits import PROC, SYS, text_of
from toolkit.records import Telemetry


@dataclass(frozen=True)
class Reading:
    """Counters that only rise, and temperatures, at one moment."""

    busy_s: float | None
    """Processor time spent on anything, by all usable cores together."""
    total_s: float | None
    """Processor time there was, idle time included."""
    own_s: float
    """Processor time of this process, all its threads."""
    throttle_events: int | None
    """How often a core was slowed down for heat."""
    temperature_c: tuple[float, ...]


def read(proc: Path = PROC, sys: Path = SYS) -> Reading:
    """The counters now."""
    busy_s, total_s = _processor_time(proc)
    own = os.times()
    return Reading(busy_s, total_s, own.user + own.system, _throttle_events(sys), _temperatures(sys))


def between(before: Reading, after: Reading, load_average: float | None) -> Telemetry:
    """What happened from one reading to the other; temperatures are the later ones."""
    throttled = None
    if before.throttle_events is not None and after.throttle_events is not None:
        throttled = after.throttle_events > before.throttle_events
    return Telemetry(load_average, _share_of_others(before, after), after.temperature_c, throttled)


def load_average() -> float | None:
    """Runnable processes in the last minute, or None. Ask before the work begins, or it counts itself."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # not on Windows; not in every container
        return None


def peak_memory_bytes(proc: Path = PROC) -> int | None:
    """Largest resident memory this process ever had.

    Not from `getrusage`: its value survives `exec`, so a child of a large process would report its parent's.
    """
    for line in text_of(proc / "self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _share_of_others(before: Reading, after: Reading) -> float | None:
    """Time used by other processes (or taken by the hypervisor) over all time there was."""
    if before.busy_s is None or before.total_s is None or after.busy_s is None or after.total_s is None:
        return None
    total = after.total_s - before.total_s
    if total <= 0:
        return None
    others = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return min(1.0, max(0.0, others / total))  # the two clocks tick apart by up to a hundredth of a second


def _processor_time(proc: Path) -> tuple[float | None, float | None]:
    """(busy, total) seconds of the usable cores from /proc/stat (proc_stat(5))."""
    wanted = {f"cpu{core}" for core in limits.usable_cores()}
    busy = total = 0
    for line in text_of(proc / "stat").splitlines():
        name, *fields = line.split()
        if name in wanted:
            ticks = [int(field) for field in fields[:8]]  # guest time, which follows, is part of user time
            idle = ticks[3] + ticks[4]  # idle, waiting for input or output
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
