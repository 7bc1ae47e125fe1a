"""CUDA through PyCUDA, in the primary context, which the CUDA runtime and TensorRT use too."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from toolkit.errors import DeviceUnreachable, plainly
from toolkit.machine.cuda.protocol import NO_DEVICE, OUT_OF_MEMORY, Buffer, Cuda, Event, Stream, failure

if TYPE_CHECKING:
    from toolkit.machine.cuda.protocol import Array

Result = TypeVar("Result")


class PyCuda(Cuda):
    """PyCUDA's driver module with the GPU's primary context."""

    def __init__(self) -> None:
        self.driver: Any = importlib.import_module("pycuda.driver")
        try:  # creates the context, makes it current, and removes it at exit
            primary: Any = self.call(lambda: importlib.import_module("pycuda.autoprimaryctx"))
        except RuntimeError as error:
            raise DeviceUnreachable(*NO_DEVICE) from error
        self._device: Any = primary.device

    def architecture(self) -> str:
        return "sm_{}{}".format(*self.call(self._device.compute_capability))

    def sm_count(self) -> int:
        attribute = self.driver.device_attribute.MULTIPROCESSOR_COUNT
        return int(self.call(lambda: self._device.get_attribute(attribute)))

    def synchronize(self) -> None:
        self.call(self.driver.Context.synchronize)

    def buffer(self, size: int) -> Buffer:
        return PyCudaBuffer(self, size)

    def stream(self) -> Stream:
        return PyCudaStream(self)

    def event(self) -> Event:
        return PyCudaEvent(self)

    def call(self, function: Callable[[], Result]) -> Result:
        """The function's result; DeviceUnreachable for PyCUDA's errors."""
        try:
            return function()
        except self.driver.MemoryError as error:
            raise DeviceUnreachable(*OUT_OF_MEMORY) from error
        except self.driver.Error as error:
            raise failure(plainly(error)) from error


class PyCudaBuffer(Buffer):
    """A `DeviceAllocation`."""

    def __init__(self, cuda: PyCuda, size: int) -> None:
        self._cuda, self.size = cuda, size
        self._allocation: Any = cuda.call(lambda: cuda.driver.mem_alloc(size))
        self.address = int(self._allocation)

    def free(self) -> None:
        self._cuda.call(self._allocation.free)


class PyCudaStream(Stream):
    """A `Stream`."""

    def __init__(self, cuda: PyCuda) -> None:
        self._cuda = cuda
        self._stream: Any = cuda.call(cuda.driver.Stream)
        self.handle = int(self._stream.handle)

    def upload(self, array: Array, buffer: Buffer) -> None:
        self._cuda.call(lambda: self._cuda.driver.memcpy_htod_async(buffer.address, array, self._stream))

    def download(self, buffer: Buffer, array: Array) -> None:
        self._cuda.call(lambda: self._cuda.driver.memcpy_dtoh_async(array, buffer.address, self._stream))

    def synchronize(self) -> None:
        self._cuda.call(self._stream.synchronize)

    def close(self) -> None:
        self._stream = None  # PyCUDA destroys objects without references


class PyCudaEvent(Event):
    """An `Event`, recorded in the default stream."""

    def __init__(self, cuda: PyCuda) -> None:
        self._cuda = cuda
        self.event: Any = cuda.call(cuda.driver.Event)

    def record(self) -> None:
        self._cuda.call(self.event.record)

    def milliseconds_since(self, start: Event) -> float:
        assert isinstance(start, PyCudaEvent)
        self._cuda.call(self.event.synchronize)
        return float(self._cuda.call(lambda: self.event.time_since(start.event)))

    def close(self) -> None:
        self.event = None
