"""CPU and memory limits of this process, including those of its container (cgroup).

Limits of cgroups v2 are read from the process's group up to the root, those of v1 at the root, where a containerised
process finds its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")


def usable_cores() -> frozenset[int]:
    """Indices of the CPU cores that this process may run on."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # Linux only
        return frozenset(range(os.cpu_count() or 1))


def cores(proc: Path = PROC, sys: Path = SYS) -> int:
    """Number of usable cores, or the CPU quota if it is lower."""
    return max(1, math.floor(min([len(usable_cores()), *_quotas(proc, sys)])))


def memory_bytes(proc: Path = PROC, sys: Path = SYS) -> int:
    """Memory in bytes: the machine's, or the limit if it is lower; 0 if unknown."""
    sizes = []
    if hasattr(os, "sysconf"):  # not on Windows
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    files = [group / "memory.max" for group in _groups(proc, sys)]
    files.append(sys / "fs/cgroup/memory/memory.limit_in_bytes")
    sizes += [int(text) for text in map(text_of, files) if text.isdigit()]
    return min(sizes, default=0)


def cpu_flags(proc: Path = PROC) -> frozenset[str]:
    """Linux's CPU flags (instruction set extensions); empty if unknown."""
    lines = (line.partition(":") for line in text_of(proc / "cpuinfo").splitlines())
    flags = next((value for name, _, value in lines if name.strip() in ("flags", "Features")), "")
    return frozenset(flags.split())


def _quotas(proc: Path, sys: Path) -> Iterator[float]:
    """CPU quotas, in cores."""
    version_1 = sys / "fs/cgroup/cpu"
    pairs = [text_of(group / "cpu.max").split() for group in _groups(proc, sys)]
    pairs.append([text_of(version_1 / "cpu.cfs_quota_us"), text_of(version_1 / "cpu.cfs_period_us")])
    for pair in pairs:
        if len(pair) == 2 and all(text.isdigit() and int(text) for text in pair):  # "max" and -1 mean no quota
            yield int(pair[0]) / int(pair[1])


def _groups(proc: Path, sys: Path) -> list[Path]:
    """Folders of the process's cgroup and its parents."""
    root = sys / "fs/cgroup"
    name = text_of(proc / "self/cgroup").partition("0::")[2].partition("\n")[0].strip("/")
    folder = root / name
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def text_of(file: Path) -> str:
    """A file's text; empty if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
