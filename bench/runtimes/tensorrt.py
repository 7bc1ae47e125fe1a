"""TensorRT and TensorRT for RTX on an NVIDIA GPU. Opens what `export --trt` and `export --rtx` write.

An engine is refused before it is loaded where its record says that it was built by another version or for another GPU:
loading it would fail with less to go by, or crash.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from toolkit import gpu
from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import artifact_in
from toolkit.errors import BadInput, CheckFailed, WrongMachine
from toolkit.export.libraries import AMPERE, PACKAGES, library
from toolkit.gpu import checked
from toolkit.records import Artifact


class TensorRtSession(Session):
    """An engine and its buffers on the GPU; see `Session`."""

    def __init__(self, engine: Any, artifact: Artifact) -> None:
        self._engine, self._cuda = engine, gpu.runtime()
        self._context: Any | None = engine.create_execution_context()
        if self._context is None:
            raise CheckFailed("the engine cannot be made ready to run: too little memory on the GPU?")
        self._artifact = artifact
        self._stream = checked(self._cuda.cudaStreamCreate())
        self._buffers: dict[str, tuple[int, int]] = {}  # name: address, bytes

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes], both copied to and from the GPU."""
        if self._context is None:
            raise RuntimeError("the session is closed")
        source, result = self._artifact.inputs[0].name, self._artifact.outputs[0].name
        logits = np.empty((len(images), len(self._artifact.model.classes)), dtype=np.float32)
        if not self._context.set_input_shape(source, images.shape):
            raise CheckFailed(f"the engine takes no images of shape {images.shape}")
        for name, values in ((source, images), (result, logits)):
            self._context.set_tensor_address(name, self._buffer(name, values.nbytes))
        kinds = self._cuda.cudaMemcpyKind
        to_gpu = (self._buffers[source][0], images.ctypes.data, images.nbytes, kinds.cudaMemcpyHostToDevice)
        back = (logits.ctypes.data, self._buffers[result][0], logits.nbytes, kinds.cudaMemcpyDeviceToHost)
        checked(self._cuda.cudaMemcpyAsync(*to_gpu, self._stream))
        if not self._context.execute_async_v3(int(self._stream)):
            raise CheckFailed("the engine could not be run")
        checked(self._cuda.cudaMemcpyAsync(*back, self._stream))
        checked(self._cuda.cudaStreamSynchronize(self._stream))
        return logits

    def close(self) -> None:
        self._context = None
        for address, _ in self._buffers.values():
            checked(self._cuda.cudaFree(address))
        self._buffers.clear()
        checked(self._cuda.cudaStreamDestroy(self._stream))

    def _buffer(self, name: str, size: int) -> int:
        """Address of memory on the GPU of at least this size."""
        address, has = self._buffers.get(name, (0, 0))
        if has < size:
            if address:
                checked(self._cuda.cudaFree(address))
            self._buffers[name] = int(checked(self._cuda.cudaMalloc(size))), size
        return self._buffers[name][0]


class TensorRt:
    """See the module."""

    def open(self, folder: Path, threads: int) -> Session:
        """Check hashes, version and GPU against the record, then load the engine. `threads` says nothing to a GPU."""
        artifact = artifact_in(folder, "tensorrt", *PACKAGES)
        built_by = library(artifact.target)
        if fault := mismatch(artifact, built_by.version, gpu.architecture()):
            raise WrongMachine(f"{folder / artifact.file} {fault}", "export it again here, or for this GPU (--force)")
        trt = built_by.module
        loader = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        if artifact.options.get("version_compatible"):
            loader.engine_host_code_allowed = True  # it brings its own runtime
        engine = loader.deserialize_cuda_engine((folder / artifact.file).read_bytes())
        if engine is None:
            raise BadInput(
                f"{built_by.package} {built_by.version} cannot load {folder / artifact.file}", "export it again here"
            )
        return TensorRtSession(engine, artifact)


def mismatch(artifact: Artifact, version: str, architecture: str) -> str:
    """Why an engine cannot run with this version of its library on this GPU ("sm_89"); empty if it can."""
    package = PACKAGES[artifact.target]
    built_by = artifact.built_with.get(package)
    if built_by is None:
        return f"does not say which {package} has built it"
    later_too = artifact.options.get("version_compatible") and _numbers(built_by) <= _numbers(version)
    if built_by != version and not later_too:
        return f"was built by {package} {built_by}, and {version} is installed"
    made_for = artifact.device_architecture
    newer_too = artifact.options.get("hardware_compatible") and _numbers(architecture) >= _numbers(AMPERE)
    if made_for is not None and architecture not in made_for.split(",") and not newer_too:
        return f"was built for {made_for}, and this GPU is {architecture}"
    return ""


def _numbers(text: str) -> tuple[int, ...]:
    """ "10.3.0" -> (10, 3, 0), "sm_120" -> (120,)"""
    return tuple(int(number) for number in re.findall(r"\d+", text))


PLUGIN: Runtime = TensorRt()
