"""The first NVIDIA GPU through CUDA, without torch: by PyCUDA where it is installed, else by the CUDA runtime library.

A Jetson has neither PyCUDA nor cuda-python, but always the library.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from toolkit.errors import DeviceUnreachable, MissingDependency

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]


class Buffer(Protocol):
    """GPU memory."""

    address: int
    size: int
    """Bytes."""

    def free(self) -> None: ...


class Stream(Protocol):
    """A queue of work, which waits for the default stream and is waited for by it."""

    handle: int
    """CUDA's `cudaStream_t`."""

    def upload(self, array: Array, buffer: Buffer) -> None:
        """Start to copy a contiguous array to the GPU."""
        ...

    def download(self, buffer: Buffer, array: Array) -> None:
        """Start to fill a contiguous array from the GPU."""
        ...

    def synchronize(self) -> None:
        """Wait for all work in the stream."""
        ...

    def close(self) -> None: ...


class Event(Protocol):
    """A time on the GPU."""

    def record(self) -> None:
        """Record when the work that was started so far has ended."""
        ...

    def milliseconds_since(self, start: Event) -> float:
        """Wait for this event; returns the time between both."""
        ...

    def close(self) -> None: ...


class Cuda(Protocol):
    """Everything that the toolkit asks of CUDA. DeviceUnreachable, with what to do, if a call fails."""

    def architecture(self) -> str: ...
    def sm_count(self) -> int: ...
    def synchronize(self) -> None: ...
    def buffer(self, size: int) -> Buffer: ...
    def stream(self) -> Stream: ...
    def event(self) -> Event: ...


@cache
def runtime() -> Cuda:
    """CUDA on this machine. MissingDependency if there is no way to call it."""
    try:
        importlib.import_module("pycuda.driver")
    except ImportError:  # not installed, or there is no NVIDIA driver, which the library says better
        from toolkit.machine.cuda.libcudart import LibCudart

        return LibCudart.find()
    from toolkit.machine.cuda.pycuda import PyCuda

    return PyCuda()


def architecture() -> str:
    """Architecture of the GPU, such as "sm_89"; DeviceUnreachable if there is none."""
    return runtime().architecture()


def sm_count() -> int:
    """Number of streaming multiprocessors of the GPU; DeviceUnreachable if there is none."""
    return runtime().sm_count()


def architecture_or_none() -> str | None:
    """`architecture`, or None without a usable GPU."""
    try:
        return architecture()
    except (DeviceUnreachable, MissingDependency):
        return None


NO_GPU = "TensorRT engines need a machine with an NVIDIA GPU and its driver"
NO_DEVICE = ("there is no usable NVIDIA GPU", f"{NO_GPU}; CUDA_VISIBLE_DEVICES may hide one")
OUT_OF_MEMORY = ("the GPU is out of memory", "close other programs, or use a smaller batch size")
"""Messages and hints."""


def failure(status: str) -> DeviceUnreachable:
    """The error for a failed call; `status` says why in CUDA's words."""
    return DeviceUnreachable(f"the GPU or its driver failed ({status})", "check its state with nvidia-smi")
