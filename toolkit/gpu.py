"""The NVIDIA GPU of this machine, through CUDA's own runtime; free of torch."""

from __future__ import annotations

import importlib
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
    """The value of a call to CUDA's runtime; DeviceUnreachable with its own words where it failed."""
    status, *values = answer
    if int(status):
        raise DeviceUnreachable(f"CUDA says {status.name}", _HINTS.get(status.name, ""))
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


_NO_GPU = "engines run on a machine with an NVIDIA GPU and its driver"
_HINTS = {
    "cudaErrorNoDevice": _NO_GPU,
    "cudaErrorStubLibrary": _NO_GPU,
    "cudaErrorInsufficientDriver": f"{_NO_GPU}; an older driver wants older bindings: pip install 'cuda-bindings<13'",
}
