"""What of the machine this process may use: processor cores and memory, where its container (control group) has limits.

Control groups of version 2 are read from the process's own group up to the root, those of version 1 at their root,
which is what a process in a container sees.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")


def usable_cores() -> frozenset[int]:
    """Numbers of the cores this process may run on."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # Linux only
        return frozenset(range(os.cpu_count() or 1))


def cores(proc: Path = PROC, sys: Path = SYS) -> int:
    """Threads that can run at once: one for each usable core, fewer where the quota of processor time is smaller."""
    return max(1, math.floor(min([len(usable_cores()), *_quotas(proc, sys)])))


def memory_bytes(proc: Path = PROC, sys: Path = SYS) -> int:
    """Bytes of memory: the machine's, or fewer where there is a limit; 0: not known."""
    sizes = []
    if hasattr(os, "sysconf"):  # not on Windows
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    files = [group / "memory.max" for group in _groups(proc, sys)]
    files.append(sys / "fs/cgroup/memory/memory.limit_in_bytes")
    sizes += [int(text) for text in map(text_of, files) if text.isdigit()]
    return min(sizes, default=0)


def cpu_flags(proc: Path = PROC) -> frozenset[str]:
    """Linux's names for the instructions that this CPU has; none where it is not known."""
    lines = (line.partition(":") for line in text_of(proc / "cpuinfo").splitlines())
    found = next((value for name, _, value in lines if name.strip() in ("flags", "Features")), "")
    return frozenset(found.split())


def _quotas(proc: Path, sys: Path) -> Iterator[float]:
    """Cores' worth of processor time."""
    version_1 = sys / "fs/cgroup/cpu"
    pairs = [text_of(group / "cpu.max").split() for group in _groups(proc, sys)]
    pairs.append([text_of(version_1 / "cpu.cfs_quota_us"), text_of(version_1 / "cpu.cfs_period_us")])
    for pair in pairs:
        if len(pair) == 2 and all(text.isdigit() and int(text) for text in pair):  # "max" and -1 are no quota
            yield int(pair[0]) / int(pair[1])


def _groups(proc: Path, sys: Path) -> list[Path]:
    """Folders of the process's control group and of those it is in."""
    root = sys / "fs/cgroup"
    own = text_of(proc / "self/cgroup").partition("0::")[2].partition("\n")[0].strip("/")
    folder = root / own
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def text_of(file: Path) -> str:
    """A file's text, or nothing: what a machine does not tell is not an error."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
