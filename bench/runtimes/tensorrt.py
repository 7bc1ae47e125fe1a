"""TensorRT and TensorRT for RTX on an NVIDIA GPU. Opens what `export --trt` and `export --rtx` write.

An engine is refused before it is loaded where its record says that it was built by another version or for another GPU:
loading it would fail with less to go by, or crash.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import artifact_in
from toolkit.errors import BadInput, CheckFailed, DeviceUnreachable, MissingDependency
from toolkit.export.libraries import PACKAGES
from toolkit.records import Artifact


class TensorRtSession:
    """An engine and its buffers on the GPU; see `Session`."""

    def __init__(self, engine: Any, artifact: Artifact, cuda: Any) -> None:
        self._engine, self._cuda = engine, cuda
        self._context: Any | None = engine.create_execution_context()
        self._artifact = artifact
        self._stream = _called(cuda.cudaStreamCreate())
        self._buffers: dict[str, tuple[int, int]] = {}  # name: address, bytes

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes], both copied to and from the GPU."""
        if self._context is None:
            raise RuntimeError("the session is closed")
        source, result = self._artifact.inputs[0].name, self._artifact.outputs[0].name
        logits = np.empty((len(images), len(self._artifact.model.classes)), dtype=np.float32)
        self._context.set_input_shape(source, images.shape)
        for name, values in ((source, images), (result, logits)):
            self._context.set_tensor_address(name, self._buffer(name, values.nbytes))
        kinds = self._cuda.cudaMemcpyKind
        to_gpu = (self._buffers[source][0], images.ctypes.data, images.nbytes, kinds.cudaMemcpyHostToDevice)
        back = (logits.ctypes.data, self._buffers[result][0], logits.nbytes, kinds.cudaMemcpyDeviceToHost)
        _called(self._cuda.cudaMemcpyAsync(*to_gpu, self._stream))
        if not self._context.execute_async_v3(int(self._stream)):
            raise CheckFailed("the engine could not be run")
        _called(self._cuda.cudaMemcpyAsync(*back, self._stream))
        _called(self._cuda.cudaStreamSynchronize(self._stream))
        return logits

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context = None
        for address, _ in self._buffers.values():
            _called(self._cuda.cudaFree(address))
        self._buffers.clear()
        _called(self._cuda.cudaStreamDestroy(self._stream))

    def _buffer(self, name: str, size: int) -> int:
        """Address of memory on the GPU of at least this size."""
        address, has = self._buffers.get(name, (0, 0))
        if has < size:
            if address:
                _called(self._cuda.cudaFree(address))
            self._buffers[name] = int(_called(self._cuda.cudaMalloc(size))), size
        return self._buffers[name][0]


class TensorRt:
    """See the module."""

    def open(self, folder: Path, threads: int) -> Session:
        """Check hashes, version and GPU against the record, then load the engine. `threads` says nothing to a GPU."""
        artifact = artifact_in(folder, "tensorrt", *PACKAGES)
        package = PACKAGES[artifact.target]
        trt, cuda = _imported(package), _imported("cuda.bindings.runtime")
        if fault := mismatch(artifact, str(trt.__version__), _architecture(cuda)):
            raise BadInput(f"{folder / artifact.file} {fault}", "export it again on, or for, this machine (--force)")
        engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(
            (folder / artifact.file).read_bytes()
        )
        if engine is None:
            raise BadInput(f"{package} {trt.__version__} cannot load {folder / artifact.file}", "export it again here")
        return TensorRtSession(engine, artifact, cuda)


def mismatch(artifact: Artifact, version: str, architecture: str) -> str:
    """Why an engine cannot run with this version of its library on this GPU ("sm_89"); empty if it can."""
    built_by = artifact.built_with.get(PACKAGES[artifact.target], "an unknown version")
    if built_by != version and not artifact.options.get("version_compatible"):
        return f"was built by {PACKAGES[artifact.target]} {built_by}, and {version} is installed"
    made_for = artifact.device_architecture
    if made_for is not None and architecture not in made_for.split(",") and not _runs_anywhere_from_ampere(artifact):
        return f"was built for {made_for}, and this GPU is {architecture}"
    return ""


def _runs_anywhere_from_ampere(artifact: Artifact) -> bool:
    return bool(artifact.options.get("hardware_compatible"))


def _architecture(cuda: Any) -> str:
    """ "sm_89" of the first GPU; DeviceUnreachable where there is none."""
    kinds = cuda.cudaDeviceAttr
    parts = (kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor)
    return "sm_" + "".join(str(_called(cuda.cudaDeviceGetAttribute(part, 0))) for part in parts)


def _called(answer: tuple[Any, ...]) -> Any:
    """The value of a call to CUDA; DeviceUnreachable with its own words where it failed."""
    status, *values = answer
    if int(status):
        raise DeviceUnreachable(
            f"CUDA says {status.name}", "engines run on a machine with an NVIDIA GPU and its driver"
        )
    return values[0] if values else None


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = "cuda-bindings" if module.startswith("cuda") else module.replace("_", "-")
        raise MissingDependency(
            f"engines need {module}, which cannot be imported: {error}", f"pip install {package}"
        ) from error


PLUGIN: Runtime = TensorRt()
