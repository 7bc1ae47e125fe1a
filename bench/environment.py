"""What this machine is: processor, memory, GPU, library versions. Standard library only; unknown is None or absent."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import toolkit
from toolkit import limits
from toolkit.limits import PROC, SYS, text_of
from toolkit.records import Environment

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "torch-pruning",
    "lightning-fabric",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "scipy",
)
NVIDIA_SMI_SECONDS = 20
"""A first call may have to wake the driver."""


def capture(proc: Path = PROC, sys: Path = SYS) -> Environment:
    """Describe the machine now. `proc` and `sys` are the roots of Linux's own files."""
    gpu, driver = _gpu()
    return Environment(
        toolkit=toolkit.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        processor=_processor(proc),
        cores=limits.cores(proc, sys),
        memory_bytes=limits.memory_bytes(proc, sys),
        gpu=gpu,
        driver=driver,
        libraries=_versions(),
        power_mode=text_of(sys / "devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        clocks_mhz=_clocks(proc, sys),
    )


def _processor(proc: Path) -> str:
    """The processor's name; ARM boards give it in the device tree or not at all."""
    for key in ("model name", "Model", "Hardware"):
        found = _fields(proc / "cpuinfo", key)
        if found:
            return found[0]
    return platform.processor() or platform.machine() or "unknown"


def _clocks(proc: Path, sys: Path) -> tuple[float, ...]:
    """Clock of each core in MHz at this moment."""
    found = _fields(proc / "cpuinfo", "cpu MHz")
    if found:
        return tuple(float(value) for value in found)
    files = sorted(sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    return tuple(int(text) / 1000 for text in map(text_of, files) if text)


def _gpu() -> tuple[str | None, str | None]:
    """(names of the GPUs, driver version) as nvidia-smi says, or None."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, None
    rows = [line.rsplit(", ", 1) for line in answer.stdout.splitlines() if ", " in line]
    if not rows:
        return None, None
    return ", ".join(name for name, _ in rows), rows[0][1]


def _versions() -> dict[str, str]:
    installed: dict[str, str] = {}
    for library in LIBRARIES:
        try:
            installed[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _fields(file: Path, key: str) -> list[str]:
    """Values of the lines `key : value`."""
    pairs = (line.partition(":") for line in text_of(file).splitlines())
    return [value.strip() for name, _, value in pairs if name.strip() == key]
