"""ONNX Runtime on the CPU, for artifacts of the onnx target. Does not need torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import read_artifact
from toolkit.errors import WrongMachine
from toolkit.records import Artifact

if TYPE_CHECKING:
    import onnxruntime

ERRORS_ONLY = 3
"""Log level: without it, the GPU build prints a warning on every machine that has no GPU."""


class OnnxRuntimeSession(Session):
    """Session around an `InferenceSession`."""

    def __init__(self, session: onnxruntime.InferenceSession, artifact: Artifact) -> None:
        self.spec = Identity.of_artifact(artifact)
        self._session: onnxruntime.InferenceSession | None = session
        self._input = artifact.inputs[0].name
        self._output = artifact.outputs[0].name

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        if self._session is None:
            raise RuntimeError("the session is closed")
        (logits,) = self._session.run([self._output], {self._input: images})
        return np.asarray(logits)

    def close(self) -> None:
        self._session = None


class OnnxRuntime(Runtime):
    """ONNX Runtime with its CPU execution provider."""

    needs = ("onnxruntime",)
    opens_models = False

    def open(self, folder: Path, threads: int) -> Session:
        """Check the files' hashes, then load the graph with `threads` intra-op threads."""
        import onnxruntime

        artifact = read_artifact(folder, "onnxruntime", "onnx")
        if artifact.precision == "bf16":
            raise WrongMachine(
                f"{folder} is in bf16, and onnxruntime has no bf16 kernels for CPUs",
                "export it with --openvino, or as fp32, fp16 or int8",
            )
        session = onnxruntime.InferenceSession(
            folder / artifact.file, _options(threads), providers=["CPUExecutionProvider"]
        )
        return OnnxRuntimeSession(session, artifact)


def _options(threads: int) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # Idle threads of a session keep spinning and would take CPU time from the next session (onnxruntime pull request
    # 11841). Within a run they still spin.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


PLUGIN: Runtime = OnnxRuntime()
