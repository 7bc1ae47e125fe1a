"""NVIDIA GPUs as described by their driver (NVML, through the package nvidia-ml-py). None or empty: unknown.

A machine without an NVIDIA driver, or a Jetson, whose driver has no NVML, is no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from toolkit.records import GpuState


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver and its GPUs."""

    version: str
    gpus: tuple[str, ...]
    """Names, such as "NVIDIA L4"."""


@cache
def driver() -> Driver | None:
    """The driver; None without one."""
    with _nvml() as nvml:
        if nvml is None:
            return None
        try:
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            return Driver(nvml.nvmlSystemGetDriverVersion(), tuple(map(nvml.nvmlDeviceGetName, handles)))
        except nvml.NVMLError:  # a GPU that fails or that this user may not read
            return None


def state() -> GpuState | None:
    """State of the first GPU now; None without one."""
    with _first_gpu() as gpu:
        if gpu is None:
            return None
        nvml, handle = gpu
        power = _value(gpu, nvml.nvmlDeviceGetPowerUsage, handle)  # in mW
        return GpuState(
            sm_clock_mhz=_value(gpu, nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=_value(gpu, nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM),
            temperature_c=_value(gpu, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / 1e3,
        )


def throttled_ns() -> int | None:
    """Time since the driver started during which heat lowered the clocks of the first GPU."""
    with _first_gpu() as gpu:
        if gpu is None:
            return None
        nvml, handle = gpu
        status = _value(gpu, nvml.nvmlDeviceGetViolationStatus, handle, nvml.NVML_PERF_POLICY_THERMAL)
        return None if status is None else int(status.violationTime)


Gpu = tuple[ModuleType, Any]
"""NVML and the handle of a GPU."""


def _value(gpu: Gpu, query: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a query, or None if this GPU does not answer it."""
    try:
        return query(*arguments)
    except gpu[0].NVMLError:
        return None


@contextmanager
def _first_gpu() -> Iterator[Gpu | None]:
    with _nvml() as nvml:
        if nvml is None or not nvml.nvmlDeviceGetCount():
            yield None
        else:
            yield nvml, nvml.nvmlDeviceGetHandleByIndex(0)


@contextmanager
def _nvml() -> Iterator[ModuleType | None]:
    try:
        import pynvml
    except ImportError:  # optional on devices
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, or one without NVML
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()
