"""TensorRT and TensorRT for RTX on an NVIDIA GPU, for artifacts of the tensorrt and rtx targets.

Engines that were built by an incompatible version or for another GPU are refused before loading: TensorRT would fail
with a less helpful error, or crash.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from toolkit import gpu
from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import read_artifact
from toolkit.errors import BadInput, CheckFailed, WrongMachine
from toolkit.export.libraries import AMPERE, PACKAGES, library
from toolkit.gpu import checked
from toolkit.records import Artifact


class TensorRtSession(Session):
    """Session around an execution context and its GPU buffers."""

    def __init__(self, engine: Any, artifact: Artifact) -> None:
        self._engine, self._cuda = engine, gpu.runtime()
        self._context: Any | None = engine.create_execution_context()
        if self._context is None:
            raise CheckFailed("cannot create an execution context (out of GPU memory?)")
        self._artifact = artifact
        self._stream = checked(self._cuda.cudaStreamCreate())
        self._buffers: dict[str, tuple[int, int]] = {}  # name: address, bytes

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes], including the copies to and from the GPU."""
        if self._context is None:
            raise RuntimeError("the session is closed")
        input_name, output_name = self._artifact.inputs[0].name, self._artifact.outputs[0].name
        logits = np.empty((len(images), len(self._artifact.model.classes)), dtype=np.float32)
        if not self._context.set_input_shape(input_name, images.shape):
            raise CheckFailed(f"the engine does not support input shape {images.shape}")
        for name, values in ((input_name, images), (output_name, logits)):
            self._context.set_tensor_address(name, self._buffer(name, values.nbytes))
        kinds = self._cuda.cudaMemcpyKind
        upload = (self._buffers[input_name][0], images.ctypes.data, images.nbytes, kinds.cudaMemcpyHostToDevice)
        download = (logits.ctypes.data, self._buffers[output_name][0], logits.nbytes, kinds.cudaMemcpyDeviceToHost)
        checked(self._cuda.cudaMemcpyAsync(*upload, self._stream))
        if not self._context.execute_async_v3(int(self._stream)):
            raise CheckFailed("TensorRT failed to execute the engine")
        checked(self._cuda.cudaMemcpyAsync(*download, self._stream))
        checked(self._cuda.cudaStreamSynchronize(self._stream))
        return logits

    def close(self) -> None:
        self._context = None
        for address, _ in self._buffers.values():
            checked(self._cuda.cudaFree(address))
        self._buffers.clear()
        checked(self._cuda.cudaStreamDestroy(self._stream))

    def _buffer(self, name: str, size: int) -> int:
        """Device address of the buffer for a tensor, grown to at least `size` bytes."""
        address, capacity = self._buffers.get(name, (0, 0))
        if capacity < size:
            if address:
                checked(self._cuda.cudaFree(address))
            self._buffers[name] = int(checked(self._cuda.cudaMalloc(size))), size
        return self._buffers[name][0]


class TensorRt(Runtime):
    """TensorRT and TensorRT for RTX."""

    needs = ("cuda.bindings",)
    uses_gpu = True

    def open(self, folder: Path, threads: int) -> Session:
        """Check hashes, library version and GPU architecture, then load the engine. `threads` is ignored."""
        artifact = read_artifact(folder, "tensorrt", *PACKAGES)
        built_by = library(artifact.target)
        if reason := mismatch(artifact, built_by.version, gpu.architecture()):
            raise WrongMachine(f"{folder / artifact.file} {reason}", "export it again here, or for this GPU (--force)")
        trt = built_by.module
        loader = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        if artifact.options.get("version_compatible"):
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
    forward_compatible = artifact.options.get("version_compatible") and _version_numbers(built_by) <= _version_numbers(
        version
    )
    if built_by != version and not forward_compatible:
        return f"was built by {package} {built_by}, and {version} is installed"
    built_for = artifact.device_architecture
    ampere_or_later = artifact.options.get("hardware_compatible") and _version_numbers(
        architecture
    ) >= _version_numbers(AMPERE)
    if built_for is not None and architecture not in built_for.split(",") and not ampere_or_later:
        return f"was built for {built_for}, and this GPU is {architecture}"
    return ""


def _version_numbers(text: str) -> tuple[int, ...]:
    """ "10.3.0" -> (10, 3, 0), "sm_120" -> (120,)"""
    return tuple(int(number) for number in re.findall(r"\d+", text))


PLUGIN: Runtime = TensorRt()
