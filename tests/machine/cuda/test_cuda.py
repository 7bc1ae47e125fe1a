"""Both implementations of the CUDA interface, with host memory as GPU memory: a C library in place of libcudart, and a
module for PyCUDA."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from toolkit.errors import DeviceUnreachable, MissingDependency
from toolkit.machine import cuda
from toolkit.machine.cuda import libcudart
from toolkit.machine.cuda.libcudart import LibCudart
from toolkit.machine.cuda.protocol import Cuda
from toolkit.machine.cuda.pycuda import PyCuda

COMPILER = shutil.which("gcc") or shutil.which("cc")


@pytest.fixture(scope="session")
def library_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("there is no C compiler")
    file = tmp_path_factory.mktemp("cudart") / "libcudart.so.13"
    source = Path(__file__).parent / "cudart.c"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", file, source], check=True)
    return file


@pytest.fixture
def library(library_file: Path, tmp_path: Path) -> ctypes.CDLL:
    """A copy of the library, which has its own state."""
    library = ctypes.CDLL(str(shutil.copy(library_file, tmp_path)))
    library.recorded.restype = ctypes.c_char_p
    return library


class Allocation:
    def __init__(self, size: int) -> None:
        self.memory = ctypes.create_string_buffer(size)

    def __int__(self) -> int:
        return ctypes.addressof(self.memory)

    def free(self) -> None:
        del self.memory


class Stream:
    handle = 1 << 40

    def synchronize(self) -> None: ...


class Event:
    count = 0

    def record(self) -> None:
        self.at = Event.count
        Event.count += 1

    def synchronize(self) -> None: ...

    def time_since(self, start: Event) -> float:
        return self.at - start.at


def upload(address: int, array: Any, stream: Stream) -> None:
    ctypes.memmove(address, array.ctypes.data, array.nbytes)


def download(array: Any, address: int, stream: Stream) -> None:
    ctypes.memmove(array.ctypes.data, address, array.nbytes)


def module(name: str, **content: object) -> ModuleType:
    result = ModuleType(name)
    vars(result).update(content)
    return result


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    error = type("Error", (Exception,), {})
    driver = module(
        "pycuda.driver",
        Error=error,
        MemoryError=type("MemoryError", (error,), {}),
        device_attribute=SimpleNamespace(MULTIPROCESSOR_COUNT="sms"),
        Context=SimpleNamespace(synchronize=lambda: None),
        mem_alloc=Allocation,
        Stream=Stream,
        Event=Event,
        memcpy_htod_async=upload,
        memcpy_dtoh_async=download,
    )
    device = SimpleNamespace(compute_capability=lambda: (8, 9), get_attribute={"sms": 58}.__getitem__)
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setitem(sys.modules, "pycuda.autoprimaryctx", module("pycuda.autoprimaryctx", device=device))
    return driver


@pytest.fixture(params=["libcudart", "pycuda"])
def runtime(request: pytest.FixtureRequest) -> Cuda:
    if request.param == "pycuda":
        request.getfixturevalue("pycuda")
        return PyCuda()
    return LibCudart(request.getfixturevalue("library"))


@pytest.fixture
def no_cache() -> Iterator[None]:
    cuda.runtime.cache_clear()
    yield
    cuda.runtime.cache_clear()


def test_the_gpu_is_described(runtime: Cuda) -> None:
    assert (runtime.architecture(), runtime.sm_count()) == ("sm_89", 58)


def test_arrays_go_to_the_gpu_and_back(runtime: Cuda) -> None:
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    received = np.zeros_like(sent)
    buffer = runtime.buffer(sent.nbytes)
    with closing(runtime.stream()) as stream:
        assert stream.handle == 1 << 40, "handles have 64 bits"
        stream.upload(sent, buffer)
        stream.download(buffer, received)
        stream.synchronize()
    assert buffer.size == 48
    buffer.free()
    np.testing.assert_array_equal(received, sent)


def test_events_measure_the_time_between_them(runtime: Cuda) -> None:
    with closing(runtime.event()) as start, closing(runtime.event()) as end:
        runtime.synchronize()
        start.record()
        end.record()
        assert end.milliseconds_since(start) == 1.0


def test_buffers_streams_and_events_are_freed(library: ctypes.CDLL) -> None:
    runtime = LibCudart(library)
    runtime.buffer(4).free()
    runtime.stream().close()
    runtime.event().close()
    assert library.recorded().split() == [
        b"malloc", b"free", b"stream-create", b"stream-destroy", b"event-create", b"event-destroy"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "driver", "message", "hint"),
    [
        (35, 0, "this machine has no NVIDIA driver", "a machine with an NVIDIA GPU"),
        (35, 12080, r"the NVIDIA driver supports CUDA 12.8, but .* 13.2 needs a newer one", "library for CUDA 12"),
        (34, 0, "a stub library is installed", "a machine with an NVIDIA GPU"),
        (100, 13000, "there is no usable NVIDIA GPU", "CUDA_VISIBLE_DEVICES"),
        (2, 13000, "the GPU is out of memory", "smaller batch"),
        (700, 13000, r"the GPU or its driver failed \(IllegalAddress\)", "nvidia-smi"),
    ],
)
def test_failed_calls_of_the_library_raise(
    status: int, driver: int, message: str, hint: str, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIVER", str(driver))
    library.fail(b"malloc", status)
    with pytest.raises(DeviceUnreachable, match=message) as caught:
        LibCudart(library).buffer(4)
    assert hint in caught.value.hint
    assert "cudaError" not in str(caught.value)


def test_failed_calls_of_pycuda_raise(pycuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(kind: str, text: str) -> Any:
        def call(*_: object) -> None:
            raise getattr(pycuda, kind)(text)

        return call

    runtime = PyCuda()
    monkeypatch.setattr(pycuda, "mem_alloc", failing("MemoryError", "cuMemAlloc failed"))
    with pytest.raises(DeviceUnreachable, match="the GPU is out of memory"):
        runtime.buffer(4)
    monkeypatch.setattr(pycuda, "Stream", failing("Error", "cuStreamCreate failed: illegal address"))
    with pytest.raises(DeviceUnreachable, match="cuStreamCreate failed: illegal address"):
        runtime.stream()


@pytest.mark.usefixtures("no_cache", "pycuda")
def test_pycuda_is_preferred() -> None:
    assert isinstance(cuda.runtime(), PyCuda)
    assert cuda.architecture_or_none() == "sm_89"


@pytest.mark.usefixtures("no_cache")
def test_without_pycuda_the_library_is_used(library_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setattr(libcudart, "candidates", lambda: iter(["libcudart.so.0", str(library_file)]))
    assert isinstance(cuda.runtime(), LibCudart)
    assert (cuda.architecture(), cuda.sm_count()) == ("sm_89", 58)


@pytest.mark.parametrize(("driver", "chosen"), [(12080, (12, 4)), (13000, (13, 2)), (0, (13, 2))])
def test_the_newest_library_that_the_driver_supports(
    library_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: int, chosen: tuple[int, int]
) -> None:
    older = tmp_path / "libcudart.so.12"
    source = Path(__file__).parent / "cudart.c"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-DRUNTIME=12040", "-o", older, source], check=True)
    monkeypatch.setenv("DRIVER", str(driver))
    monkeypatch.setattr(libcudart, "candidates", lambda: iter([str(library_file), str(older)]))
    assert LibCudart.find()._version("cudaRuntimeGetVersion") == chosen


@pytest.mark.usefixtures("no_cache")
def test_a_missing_library_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setattr(libcudart, "candidates", lambda: iter(["libcudart.so.0"]))
    with pytest.raises(MissingDependency, match="libcudart") as caught:
        cuda.architecture()
    assert "pip install nvidia-cuda-runtime" in caught.value.hint
    assert cuda.architecture_or_none() is None


def test_libraries_of_python_packages_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcudart.so.13").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "platform", "linux")
    names = list(libcudart.candidates())
    assert names[0] == "libcudart.so.13"
    assert str(folder / "libcudart.so.13") in names
    monkeypatch.setattr(sys, "platform", "win32")
    assert "cudart64_13.dll" in libcudart.candidates()
