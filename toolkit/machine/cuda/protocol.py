"""Interface to the CUDA functions that the toolkit uses, and the messages for their failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from toolkit.errors import DeviceUnreachable

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
    """A queue of work, synchronised with the default stream in both directions."""

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
    """A time stamp on the GPU."""

    def record(self) -> None:
        """Record the time at which all work started so far has ended."""
        ...

    def milliseconds_since(self, start: Event) -> float:
        """Wait for this event; returns the time between both."""
        ...

    def close(self) -> None: ...


class Cuda(Protocol):
    """The CUDA functions that the toolkit uses. A failed call raises DeviceUnreachable with a hint."""

    def architecture(self) -> str: ...
    def sm_count(self) -> int: ...
    def synchronize(self) -> None: ...
    def buffer(self, size: int) -> Buffer: ...
    def stream(self) -> Stream: ...
    def event(self) -> Event: ...


NO_GPU = "TensorRT engines need a machine with an NVIDIA GPU and its driver"
NO_DEVICE = ("there is no usable NVIDIA GPU", f"{NO_GPU}; CUDA_VISIBLE_DEVICES may hide one")
OUT_OF_MEMORY = ("the GPU is out of memory", "close other programs, or use a smaller batch size")
"""Messages and hints."""


def failure(status: str) -> DeviceUnreachable:
    """The error for a failed call; `status` is CUDA's description."""
    return DeviceUnreachable(f"the GPU or its driver failed ({status})", "check its state with nvidia-smi")
