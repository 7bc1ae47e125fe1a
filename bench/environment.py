"""Hardware and software inventory of this machine. Standard library only; unknown values are None or absent."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

import toolkit
from toolkit import limits, plugins
from toolkit.limits import PROC, SYS, text_of
from toolkit.records import Environment

NVIDIA_SMI_SECONDS = 20
"""Timeout: the first call may have to initialise the driver."""


def capture(libraries: Iterable[str], proc: Path = PROC, sys: Path = SYS) -> Environment:
    """Describe the machine now, with the versions of the packages of these modules.

    `proc` and `sys` are the mount points of procfs and sysfs.
    """
    gpu, driver = _gpu()
    return Environment(
        toolkit=toolkit.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        processor=_cpu_name(proc),
        cores=limits.cores(proc, sys),
        memory_bytes=limits.memory_bytes(proc, sys),
        gpu=gpu,
        driver=driver,
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


def _gpu() -> tuple[str | None, str | None]:
    """(names of the GPUs, driver version) from nvidia-smi; (None, None) without a GPU."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, None
    rows = [line.rsplit(", ", 1) for line in output.stdout.splitlines() if ", " in line]
    if not rows:
        return None, None
    return ", ".join(name for name, _ in rows), rows[0][1]


def _fields(file: Path, key: str) -> list[str]:
    """Values of all lines `key : value`."""
    pairs = (line.partition(":") for line in text_of(file).splitlines())
    return [value.strip() for name, _, value in pairs if name.strip() == key]
