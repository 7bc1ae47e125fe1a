"""ONNX Runtime on the processor. Opens the folders that the onnx target writes; needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import artifact_in
from toolkit.errors import WrongMachine
from toolkit.records import Artifact

ERRORS_ONLY = 3
"""Log level: the GPU build warns about every machine that has no GPU."""


class OnnxRuntimeSession(Session):
    """One `InferenceSession`; see `Session`."""

    def __init__(self, session: onnxruntime.InferenceSession, artifact: Artifact) -> None:
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


class OnnxRuntime:
    """See the module."""

    def open(self, folder: Path, threads: int) -> Session:
        """Check the file's hash against its record, then load it with `threads` threads inside an operator."""
        artifact = artifact_in(folder, "onnxruntime", "onnx")
        if artifact.precision == "bf16":
            raise WrongMachine(
                f"{folder} is in bf16, for which onnxruntime has no kernels on processors",
                "export it with --openvino, or as fp32, fp16 or int8",
            )
        session = onnxruntime.InferenceSession(
            folder / artifact.file, _options(threads), providers=["CPUExecutionProvider"]
        )
        return OnnxRuntimeSession(session, artifact)


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # Idle threads of a session spin for a while and would take processor time from the session that runs next
    # (onnxruntime pull request 11841). They still spin within a run.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


PLUGIN: Runtime = OnnxRuntime()
