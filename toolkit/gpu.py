"""The NVIDIA GPU of this machine, through CUDA's own runtime; free of torch."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from toolkit.errors import DeviceUnreachable, MissingDependency, plainly


def runtime() -> Any:
    """CUDA's runtime as a module; MissingDependency where it is not installed."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingDependency(
            f"engines need cuda-bindings, which cannot be imported: {plainly(error)}", "pip install cuda-bindings"
        ) from error


def called(answer: tuple[Any, ...]) -> Any:
    """The value of a call to CUDA's runtime; DeviceUnreachable where it failed."""
    status, *values = answer
    if int(status):
        raise _unreachable(status.name)
    return values[0] if values else None


def architecture() -> str:
    """ "sm_89" of the first GPU; DeviceUnreachable where there is none."""
    cuda = runtime()
    kinds = cuda.cudaDeviceAttr
    parts = (kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor)
    return "sm_" + "".join(str(called(cuda.cudaDeviceGetAttribute(part, 0))) for part in parts)


def processors() -> int:
    """Streaming multiprocessors of the first GPU; DeviceUnreachable where there is none."""
    cuda = runtime()
    return int(called(cuda.cudaDeviceGetAttribute(cuda.cudaDeviceAttr.cudaDevAttrMultiProcessorCount, 0)))


def present() -> str:
    """The same, or "none" where there is none that could be used."""
    try:
        return architecture()
    except (DeviceUnreachable, MissingDependency):
        return "none"


def _unreachable(status: str) -> DeviceUnreachable:
    """What a failed call says, in our words; `status` is CUDA's name for it."""
    if status == "cudaErrorInsufficientDriver":
        _, driver = runtime().cudaDriverGetVersion()  # 0: none; else 12080 for CUDA 12.8
        if driver:
            major, minor, bindings = driver // 1000, driver % 1000 // 10, metadata.version("cuda-bindings")
            return DeviceUnreachable(
                f"the NVIDIA driver here is for CUDA {major}.{minor}, and cuda-bindings {bindings} wants a newer one",
                f"update the driver, or pip install 'cuda-bindings<{major + 1}'",
            )
        return DeviceUnreachable("this machine has no NVIDIA driver", _NO_GPU)
    if status in _WORDS:
        return DeviceUnreachable(*_WORDS[status])
    return DeviceUnreachable(
        f"the GPU, or its driver, fails ({status.removeprefix('cudaError')})", "nvidia-smi shows what state it is in"
    )


_NO_GPU = "engines run on a machine with an NVIDIA GPU and its driver"
_WORDS = {
    "cudaErrorNoDevice": ("there is no NVIDIA GPU that may be used", f"{_NO_GPU}; CUDA_VISIBLE_DEVICES can hide one"),
    "cudaErrorStubLibrary": ("a stub is installed in place of the NVIDIA driver", _NO_GPU),
    "cudaErrorMemoryAllocation": ("the memory of the GPU is full", "end what else uses it, or use smaller batches"),
}
"""Message and hint for the failures that a machine or its use may have."""
