"""GPUs through NVML, which is simulated at its boundary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from toolkit.machine import nvidia
from toolkit.machine.nvidia import Driver
from toolkit.records import GpuState


class NVMLError(Exception):
    pass


def refused(*_: Any) -> Any:
    raise NVMLError


class Nvml(ModuleType):
    """NVML of a machine with these GPUs; counts the sessions that are open."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_PERF_POLICY_THERMAL = "sm", "memory", "gpu", "thermal"

    def __init__(self, *gpus: str) -> None:
        super().__init__("pynvml")
        self.opened = 0
        self.nvmlInit: Callable[[], None] = lambda: self.opens(1)
        self.nvmlShutdown = lambda: self.opens(-1)
        self.nvmlDeviceGetCount = lambda: len(gpus)
        self.nvmlDeviceGetHandleByIndex = lambda index: gpus[index]
        self.nvmlDeviceGetName = lambda handle: f"NVIDIA {handle}"
        self.nvmlSystemGetDriverVersion = lambda: "580.65.06"
        self.nvmlDeviceGetClockInfo = lambda handle, kind: {"sm": 1980, "memory": 2619}[kind]
        self.nvmlDeviceGetTemperature: Callable[..., int] = lambda handle, sensor: 55
        self.nvmlDeviceGetPowerUsage = lambda handle: 400_500
        self.nvmlDeviceGetViolationStatus: Callable[..., Any] = lambda handle, policy: SimpleNamespace(violationTime=7)

    def opens(self, change: int) -> None:
        self.opened += change


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Nvml], Nvml]]:
    def installed(nvml: Nvml) -> Nvml:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        nvidia.driver.cache_clear()
        return nvml

    yield installed
    nvidia.driver.cache_clear()


def test_the_driver_lists_its_gpus(install: Callable[[Nvml], Nvml]) -> None:
    nvml = install(Nvml("L4", "T4"))
    assert nvidia.driver() == Driver("580.65.06", ("NVIDIA L4", "NVIDIA T4"))
    assert nvml.opened == 0


def test_the_first_gpu_describes_its_state(install: Callable[[Nvml], Nvml]) -> None:
    nvml = install(Nvml("L4", "T4"))
    assert nvidia.state() == GpuState(1980, 2619, 55, 400.5)
    assert nvidia.throttled_ns() == 7
    assert nvml.opened == 0


def test_unsupported_queries_are_unknown(install: Callable[[Nvml], Nvml]) -> None:
    nvml = install(Nvml("L4"))
    nvml.nvmlDeviceGetTemperature = nvml.nvmlDeviceGetViolationStatus = refused
    assert nvidia.state() == GpuState(1980, 2619, None, 400.5)
    assert nvidia.throttled_ns() is None
    assert nvml.opened == 0


def test_a_machine_without_gpus(install: Callable[[Nvml], Nvml]) -> None:
    install(Nvml())
    assert nvidia.driver() == Driver("580.65.06", ())
    assert nvidia.state() is None
    assert nvidia.throttled_ns() is None


@pytest.mark.parametrize("what", ["no driver", "no package"])
def test_a_machine_without_a_driver(
    what: str, install: Callable[[Nvml], Nvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(Nvml("L4")).nvmlInit = refused
    if what == "no package":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia.driver() is None
    assert nvidia.state() is None
    assert nvidia.throttled_ns() is None
