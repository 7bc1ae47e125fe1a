"""How many processor cores this process may use: those it may run on, and its container's share of their time."""

from __future__ import annotations

import math
import os
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def usable() -> frozenset[int]:
    """Numbers of the cores this process may run on."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # Linux only
        return frozenset(range(os.cpu_count() or 1))


def count(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Threads that can run at once: one for each usable core, fewer where a container's quota of time is smaller."""
    return max(1, math.floor(min([len(usable()), *_quotas(proc, cgroups)])))


def _quotas(proc: Path, cgroups: Path) -> list[float]:
    """Cores' worth of time that this process's control group and its parents allow (cgroups v2, cpu.max; v1, cfs)."""
    group = _text(proc / "self/cgroup").partition("0::/")[2].partition("\n")[0]
    folders = [cgroups / group, *(cgroups / group).parents] if group else [cgroups]
    found = [_text(folder / "cpu.max").split() for folder in folders if folder.is_relative_to(cgroups)]
    found.append([_text(cgroups / "cpu/cpu.cfs_quota_us"), _text(cgroups / "cpu/cpu.cfs_period_us")])
    pairs = [(quota, period) for quota, period in (pair for pair in found if len(pair) == 2) if quota.isdigit()]
    return [int(quota) / int(period) for quota, period in pairs if int(quota)]


def _text(file: Path) -> str:
    """A file's text, or nothing where the system has no such file."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
