"""CUDA through its runtime library, libcudart, called by ctypes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import DeviceUnreachable, MissingDependency
from toolkit.machine.cuda.protocol import NO_DEVICE, NO_GPU, OUT_OF_MEMORY, Buffer, Cuda, Event, Stream, failure

if TYPE_CHECKING:
    from toolkit.machine.cuda.protocol import Array

VERSIONS = ("13", "12", "11.0")
"""Versions in the library's file name, newest first."""
FOLDERS = ("/usr/local/cuda/lib64", "/usr/lib/aarch64-linux-gnu", "/usr/lib/x86_64-linux-gnu")
SM_COUNT, MAJOR, MINOR = 16, 75, 76
"""Values of `cudaDeviceAttr`: number of SMs, compute capability."""
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
"""Values of `cudaMemcpyKind`."""
ARGUMENTS: dict[str, tuple[type, ...]] = {
    "cudaDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cudaDeviceSynchronize": (),
    "cudaDriverGetVersion": (c_void_p,),
    "cudaRuntimeGetVersion": (c_void_p,),
    "cudaMalloc": (c_void_p, c_size_t),
    "cudaFree": (c_uint64,),
    "cudaStreamCreate": (c_void_p,),
    "cudaStreamDestroy": (c_uint64,),
    "cudaStreamSynchronize": (c_uint64,),
    "cudaMemcpyAsync": (c_uint64, c_uint64, c_size_t, c_int, c_uint64),
    "cudaEventCreate": (c_void_p,),
    "cudaEventDestroy": (c_uint64,),
    "cudaEventRecord": (c_uint64, c_uint64),
    "cudaEventSynchronize": (c_uint64,),
    "cudaEventElapsedTime": (c_void_p, c_uint64, c_uint64),
}
"""Functions that return a status."""
DEFAULT_STREAM = 0


class LibCudart(Cuda):
    """The loaded library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, arguments in ARGUMENTS.items():
            getattr(library, name).argtypes = arguments
        library.cudaGetErrorName.argtypes, library.cudaGetErrorName.restype = (c_int,), c_char_p

    @classmethod
    def find(cls) -> LibCudart:
        """The newest library that the driver supports, from this process, the system or a Python package; if the
        driver supports none, the newest one, whose calls raise the error."""
        libraries = []
        for candidate in candidates():
            try:
                library = cls(ctypes.CDLL(candidate))
            except OSError:
                continue
            if library._version("cudaRuntimeGetVersion")[0] <= library._version("cudaDriverGetVersion")[0]:
                return library
            libraries.append(library)
        if libraries:
            return libraries[0]
        raise MissingDependency(
            "TensorRT engines need the CUDA runtime library (libcudart), which is not installed",
            "pip install nvidia-cuda-runtime (or nvidia-cuda-runtime-cu12), or install CUDA",
        )

    def architecture(self) -> str:
        return "sm_" + "".join(str(self._attribute(part)) for part in (MAJOR, MINOR))

    def sm_count(self) -> int:
        return self._attribute(SM_COUNT)

    def synchronize(self) -> None:
        self.call("cudaDeviceSynchronize")

    def buffer(self, size: int) -> Buffer:
        return LibBuffer(self, size)

    def stream(self) -> Stream:
        return LibStream(self)

    def event(self) -> Event:
        return LibEvent(self)

    def call(self, name: str, *arguments: object) -> None:
        """Call a function; DeviceUnreachable if its status is an error."""
        status = getattr(self._library, name)(*arguments)
        if status:
            raise self._failure(self._library.cudaGetErrorName(status).decode())

    def _attribute(self, attribute: int) -> int:
        value = c_int()
        self.call("cudaDeviceGetAttribute", byref(value), attribute, 0)
        return value.value

    def _version(self, name: str) -> tuple[int, int]:
        """12080 -> (12, 8)"""
        value = c_int()
        getattr(self._library, name)(byref(value))
        return value.value // 1000, value.value % 1000 // 10

    def _failure(self, status: str) -> DeviceUnreachable:
        if status == "cudaErrorInsufficientDriver":
            driver, library = self._version("cudaDriverGetVersion"), self._version("cudaRuntimeGetVersion")
            if driver == (0, 0):
                return DeviceUnreachable("this machine has no NVIDIA driver", NO_GPU)
            return DeviceUnreachable(
                "the NVIDIA driver supports CUDA {}.{}, but the CUDA runtime library {}.{} needs a newer one".format(
                    *driver, *library
                ),
                f"update the driver, or install a CUDA runtime library for CUDA {driver[0]}",
            )
        if status in _MESSAGES:
            return DeviceUnreachable(*_MESSAGES[status])
        return failure(status.removeprefix("cudaError"))


_MESSAGES = {
    "cudaErrorNoDevice": NO_DEVICE,
    "cudaErrorStubLibrary": ("a stub library is installed instead of the NVIDIA driver", NO_GPU),
    "cudaErrorMemoryAllocation": OUT_OF_MEMORY,
}
"""Messages and hints for CUDA's error codes."""


class LibBuffer(Buffer):
    """Memory from `cudaMalloc`."""

    def __init__(self, cuda: LibCudart, size: int) -> None:
        pointer = c_void_p()
        cuda.call("cudaMalloc", byref(pointer), size)
        self._cuda, self.address, self.size = cuda, pointer.value or 0, size

    def free(self) -> None:
        self._cuda.call("cudaFree", self.address)


class LibStream(Stream):
    """A stream from `cudaStreamCreate`."""

    def __init__(self, cuda: LibCudart) -> None:
        handle = c_void_p()
        cuda.call("cudaStreamCreate", byref(handle))
        self._cuda, self.handle = cuda, handle.value or 0

    def upload(self, array: Array, buffer: Buffer) -> None:
        self._copy(buffer.address, array.ctypes.data, array.nbytes, HOST_TO_DEVICE)

    def download(self, buffer: Buffer, array: Array) -> None:
        self._copy(array.ctypes.data, buffer.address, array.nbytes, DEVICE_TO_HOST)

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        self._cuda.call("cudaMemcpyAsync", target, source, size, kind, self.handle)

    def synchronize(self) -> None:
        self._cuda.call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        self._cuda.call("cudaStreamDestroy", self.handle)


class LibEvent(Event):
    """An event from `cudaEventCreate`, recorded in the default stream."""

    def __init__(self, cuda: LibCudart) -> None:
        handle = c_void_p()
        cuda.call("cudaEventCreate", byref(handle))
        self._cuda, self.handle = cuda, handle.value or 0

    def record(self) -> None:
        self._cuda.call("cudaEventRecord", self.handle, DEFAULT_STREAM)

    def milliseconds_since(self, start: Event) -> float:
        assert isinstance(start, LibEvent)
        elapsed = c_float()
        self._cuda.call("cudaEventSynchronize", self.handle)
        self._cuda.call("cudaEventElapsedTime", byref(elapsed), start.handle, self.handle)
        return elapsed.value

    def close(self) -> None:
        self._cuda.call("cudaEventDestroy", self.handle)


def candidates() -> Iterator[str]:
    """File names to try, newest versions first."""
    if sys.platform == "win32":
        yield from (f"cudart64_{version.removesuffix('.0')}.dll" for version in VERSIONS)
        return
    for version in VERSIONS:
        name = f"libcudart.so.{version}"
        yield name  # also matches a library that is already loaded, from any folder
        yield from map(str, (Path(folder) / name for folder in FOLDERS))
        for folder in filter(None, sys.path):
            yield from map(str, Path(folder).glob(f"nvidia/*/lib/{name}"))
