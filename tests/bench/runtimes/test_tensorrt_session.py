"""The session of an engine, with a GPU whose memory is the host's and an engine that sums images."""

from __future__ import annotations

import ctypes
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from toolkit.bench.runtimes.tensorrt import TensorRtSession
from toolkit.errors import CheckFailed
from toolkit.machine import cuda
from toolkit.preprocessing import Preprocessing
from toolkit.records import Artifact, ModelInfo, TensorSpec

PREPROCESSING = Preprocessing((0.5,) * 3, (0.25,) * 3, "bicubic", 1.0, "squash", "timm")
MODEL = ModelInfo("name", {}, ("a", "b"), 2, PREPROCESSING, (), (), 1, 1, "00")
ARTIFACT = Artifact(
    "model.engine",
    "00",
    "tensorrt",
    "fp16",
    (TensorSpec("images", "float32", ("batch", 3, 2, 2)),),
    (TensorSpec("logits", "float32", ("batch", 2)),),
    MODEL,
    {},
)
IMAGES = np.random.default_rng(0).standard_normal((5, 3, 2, 2), dtype=np.float32)


class HostCuda:
    """Buffers and a stream in host memory; counts what is not freed."""

    def __init__(self) -> None:
        self.open = 0
        self.copies: list[str] = []

    def buffer(self, size: int) -> Any:
        return HostBuffer(self, size)

    def stream(self) -> Any:
        return HostStream(self)


class HostBuffer:
    def __init__(self, gpu: HostCuda, size: int) -> None:
        self.gpu, self.size, self.memory = gpu, size, ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self.memory)
        gpu.open += 1

    def free(self) -> None:
        self.gpu.open -= 1


class HostStream:
    handle = 7

    def __init__(self, gpu: HostCuda) -> None:
        self.gpu = gpu
        gpu.open += 1

    def upload(self, array: Any, buffer: HostBuffer) -> None:
        ctypes.memmove(buffer.address, array.ctypes.data, array.nbytes)
        self.gpu.copies.append("up")

    def download(self, buffer: HostBuffer, array: Any) -> None:
        ctypes.memmove(array.ctypes.data, buffer.address, array.nbytes)
        self.gpu.copies.append("down")

    def synchronize(self) -> None: ...

    def close(self) -> None:
        self.gpu.open -= 1


class Engine:
    """Logits are the sum of an image, and its negative. Takes up to five images."""

    def create_execution_context(self) -> Engine:
        self.addresses: dict[str, int] = {}
        self.executed = 0
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return name == "images" and shape[0] <= 5

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.executed += 1
        count = int(np.prod(self.shape))
        images = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses["images"]))
        logits = (ctypes.c_float * (2 * self.shape[0])).from_address(self.addresses["logits"])
        sums = images.reshape(self.shape).sum((1, 2, 3))
        logits[:] = np.stack([sums, -sums], 1).flatten().tolist()
        return stream == 7


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    gpu = HostCuda()
    monkeypatch.setattr(cuda, "runtime", lambda: gpu)
    return gpu


def expected(images: np.ndarray) -> np.ndarray:
    sums = images.sum((1, 2, 3))
    return np.stack([sums, -sums], 1)


def test_logits_are_returned_and_memory_is_freed(gpu: HostCuda) -> None:
    with TensorRtSession(Engine(), ARTIFACT) as session:
        for size in (2, 5, 1):  # buffers grow, and stay large
            np.testing.assert_allclose(session.run(IMAGES[:size]), expected(IMAGES[:size]), rtol=1e-6)
        assert gpu.open == 3, "two buffers and a stream"
    assert gpu.open == 0
    with pytest.raises(RuntimeError, match="closed"):
        session.run(IMAGES)


def test_a_call_on_the_device_copies_nothing(gpu: HostCuda) -> None:
    engine = Engine()
    with TensorRtSession(engine, ARTIFACT) as session:
        call = session.call(IMAGES, on_device=True)
        gpu.copies.clear()
        call()
        call()
        assert (engine.executed, gpu.copies) == (2, [])
        np.testing.assert_allclose(session.call(IMAGES, on_device=False)(), expected(IMAGES), rtol=1e-6)
        assert gpu.copies == ["up", "down"]


def test_a_shape_that_the_engine_refuses(gpu: HostCuda) -> None:
    with closing(TensorRtSession(Engine(), ARTIFACT)) as session, pytest.raises(CheckFailed, match=r"\(6, 3, 2, 2\)"):
        session.run(np.zeros((6, 3, 2, 2), np.float32))
