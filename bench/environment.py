"""Hardware and software inventory of this machine. Standard library only; unknown values are None or absent."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path

import toolkit
from toolkit import limits, plugins
from toolkit.limits import PROC, SYS, text_of
from toolkit.machine import nvidia
from toolkit.records import Environment


def capture(libraries: Iterable[str], proc: Path = PROC, sys: Path = SYS) -> Environment:
    """Describe the machine now, with the versions of the packages of these modules.

    `proc` and `sys` are the mount points of procfs and sysfs.
    """
    nvidia_driver = nvidia.driver()
    return Environment(
        toolkit=toolkit.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        processor=_cpu_name(proc),
        cores=limits.cores(proc, sys),
        memory_bytes=limits.memory_bytes(proc, sys),
        gpu=", ".join(nvidia_driver.gpus) or None if nvidia_driver else None,
        driver=nvidia_driver.version if nvidia_driver else None,
        libraries=plugins.versions(libraries),
        power_mode=text_of(sys / "devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        clocks_mhz=_clocks(proc, sys),
    )


def _cpu_name(proc: Path) -> str:
    """Model name of the CPU; some ARM boards report only the board, or nothing."""
    for key in ("model name", "Model", "Hardware"):
        names = _fields(proc / "cpuinfo", key)
        if names:
            return names[0]
    return platform.processor() or platform.machine() or "unknown"


def _clocks(proc: Path, sys: Path) -> tuple[float, ...]:
    """Current clock frequency of each core, in MHz."""
    frequencies = _fields(proc / "cpuinfo", "cpu MHz")
    if frequencies:
        return tuple(float(value) for value in frequencies)
    files = sorted(sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    return tuple(int(text) / 1000 for text in map(text_of, files) if text)


def _fields(file: Path, key: str) -> list[str]:
    """Values of all lines `key : value`."""
    pairs = (line.partition(":") for line in text_of(file).splitlines())
    return [value.strip() for name, _, value in pairs if name.strip() == key]
