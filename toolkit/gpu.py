"""Query this machine's NVIDIA GPU through the CUDA runtime, without torch."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from toolkit.errors import DeviceUnreachable, MissingDependency, plainly


def runtime() -> Any:
    """The CUDA runtime's Python module; MissingDependency if it is not installed."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingDependency(
            f"TensorRT engines need cuda-bindings, which cannot be imported: {plainly(error)}",
            "pip install cuda-bindings",
        ) from error


def checked(result: tuple[Any, ...]) -> Any:
    """The value of a CUDA runtime call's (status, value); DeviceUnreachable if it failed."""
    status, *values = result
    if int(status):
        raise _failure(status.name)
    return values[0] if values else None


def architecture() -> str:
    """Architecture of the first GPU, such as "sm_89"; DeviceUnreachable if there is none."""
    cuda = runtime()
    attributes = cuda.cudaDeviceAttr
    parts = (attributes.cudaDevAttrComputeCapabilityMajor, attributes.cudaDevAttrComputeCapabilityMinor)
    return "sm_" + "".join(str(checked(cuda.cudaDeviceGetAttribute(part, 0))) for part in parts)


def sm_count() -> int:
    """Number of streaming multiprocessors of the first GPU; DeviceUnreachable if there is none."""
    cuda = runtime()
    return int(checked(cuda.cudaDeviceGetAttribute(cuda.cudaDeviceAttr.cudaDevAttrMultiProcessorCount, 0)))


def architecture_or_none() -> str | None:
    """`architecture`, or None without a usable GPU."""
    try:
        return architecture()
    except (DeviceUnreachable, MissingDependency):
        return None


def _failure(status: str) -> DeviceUnreachable:
    """The error for a failed call; `status` is CUDA's name of its error code."""
    if status == "cudaErrorInsufficientDriver":
        _, driver = runtime().cudaDriverGetVersion()  # 0: none; else 12080 for CUDA 12.8
        if driver:
            major, minor, bindings = driver // 1000, driver % 1000 // 10, metadata.version("cuda-bindings")
            return DeviceUnreachable(
                f"the NVIDIA driver supports CUDA {major}.{minor}, but cuda-bindings {bindings} needs a newer one",
                f"update the driver, or pip install 'cuda-bindings<{major + 1}'",
            )
        return DeviceUnreachable("this machine has no NVIDIA driver", _NO_GPU)
    if status in _MESSAGES:
        return DeviceUnreachable(*_MESSAGES[status])
    return DeviceUnreachable(
        f"the GPU or its driver failed ({status.removeprefix('cudaError')})", "check its state with nvidia-smi"
    )


_NO_GPU = "TensorRT engines need a machine with an NVIDIA GPU and its driver"
_MESSAGES = {
    "cudaErrorNoDevice": ("there is no usable NVIDIA GPU", f"{_NO_GPU}; CUDA_VISIBLE_DEVICES may hide one"),
    "cudaErrorStubLibrary": ("a stub library is installed instead of the NVIDIA driver", _NO_GPU),
    "cudaErrorMemoryAllocation": (
        "the GPU is out of memory",
        "close other programs, or use a smaller batch size",
    ),
}
"""Messages and hints for CUDA's error codes."""
