"""TensorRT and TensorRT for RTX on an NVIDIA GPU, for artifacts of the tensorrt and rtx targets.

Engines that were built by an incompatible version or for another GPU are refused before loading: TensorRT would fail
with a less helpful error, or crash.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.bench.clocks import Call
from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import read_artifact
from toolkit.errors import BadInput, CheckFailed, WrongMachine
from toolkit.export.libraries import AMPERE, PACKAGES, library
from toolkit.machine import cuda
from toolkit.machine.cuda.protocol import Buffer
from toolkit.records import Artifact


class TensorRtSession(Session):
    """Session around an execution context and its GPU buffers."""

    def __init__(self, engine: Any, artifact: Artifact) -> None:
        self.spec = Identity.of_artifact(artifact)
        self._engine = engine
        self._context: Any | None = engine.create_execution_context()
        if self._context is None:
            raise CheckFailed("cannot create an execution context (out of GPU memory?)")
        self._input, self._output = artifact.inputs[0].name, artifact.outputs[0].name
        self._stream = cuda.runtime().stream()
        self._buffers: dict[str, Buffer] = {}

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes], including the copies to and from the GPU."""
        logits = self._prepare(images)
        self._stream.upload(images, self._buffers[self._input])
        self._execute()
        self._stream.download(self._buffers[self._output], logits)
        self._stream.synchronize()
        return logits

    def call(self, images: np.ndarray, *, on_device: bool) -> Call:
        if not on_device:
            return partial(self.run, images)
        self._prepare(images)
        self._stream.upload(images, self._buffers[self._input])
        self._stream.synchronize()
        return self._execute

    def close(self) -> None:
        self._context = None
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self._stream.close()

    def _prepare(self, images: np.ndarray) -> np.ndarray:
        """Fit the buffers to the batch; returns empty logits [batch, classes]."""
        if self._context is None:
            raise RuntimeError("the session is closed")
        logits = np.empty((len(images), len(self.spec.model.classes)), dtype=np.float32)
        if not self._context.set_input_shape(self._input, images.shape):
            raise CheckFailed(f"the engine does not support input shape {images.shape}")
        for name, array in ((self._input, images), (self._output, logits)):
            self._context.set_tensor_address(name, self._buffer(name, array.nbytes).address)
        return logits

    def _execute(self) -> None:
        if self._context is None or not self._context.execute_async_v3(self._stream.handle):
            raise CheckFailed("TensorRT failed to execute the engine")

    def _buffer(self, name: str, size: int) -> Buffer:
        """The buffer of a tensor, grown to at least `size` bytes."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            if buffer:
                self._buffers.pop(name).free()
            self._buffers[name] = cuda.runtime().buffer(size)
        return self._buffers[name]


class TensorRt(Runtime):
    """TensorRT and TensorRT for RTX."""

    needs = ()
    uses_gpu = True
    opens_models = False

    def open(self, folder: Path, threads: int) -> Session:
        """Check hashes, library version and GPU architecture, then load the engine. `threads` is ignored."""
        artifact = read_artifact(folder, "tensorrt", *PACKAGES)
        built_by = library(artifact.target)
        if reason := mismatch(artifact, built_by.version, cuda.architecture()):
            raise WrongMachine(f"{folder / artifact.file} {reason}", "export it again here, or for this GPU (--force)")
        trt = built_by.module
        loader = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        if artifact.engine and artifact.engine.version_compatible:
            loader.engine_host_code_allowed = True  # the engine contains its own runtime
        engine = loader.deserialize_cuda_engine((folder / artifact.file).read_bytes())
        if engine is None:
            raise BadInput(
                f"{built_by.package} {built_by.version} cannot load {folder / artifact.file}", "export it again here"
            )
        return TensorRtSession(engine, artifact)


def mismatch(artifact: Artifact, version: str, architecture: str) -> str:
    """Why an engine cannot run with this library version on this GPU architecture ("sm_89"); empty if it can."""
    package = PACKAGES[artifact.target]
    built_by = artifact.built_with.get(package)
    if built_by is None:
        return f"does not record the version of {package} that built it"
    traits = artifact.engine
    forward_compatible = (
        traits and traits.version_compatible and _version_numbers(built_by) <= _version_numbers(version)
    )
    if built_by != version and not forward_compatible:
        return f"was built by {package} {built_by}, and {version} is installed"
    built_for = artifact.device_architecture
    ampere_or_later = (
        traits and traits.hardware_compatible and _version_numbers(architecture) >= _version_numbers(AMPERE)
    )
    if built_for is not None and architecture not in built_for.split(",") and not ampere_or_later:
        return f"was built for {built_for}, and this GPU is {architecture}"
    return ""


def _version_numbers(text: str) -> tuple[int, ...]:
    """ "10.3.0" -> (10, 3, 0), "sm_120" -> (120,)"""
    return tuple(int(number) for number in re.findall(r"\d+", text))


PLUGIN: Runtime = TensorRt()
