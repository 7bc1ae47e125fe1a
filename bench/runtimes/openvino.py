"""OpenVINO on the processor. Opens what `export --openvino` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import artifact_in
from toolkit.errors import WrongMachine
from toolkit.export.openvino import NO_BF16, compile_file, computes_in, runs_in

NEEDS = ("openvino",)


class OpenVinoSession(Session):
    """A compiled model; see `Session`."""

    def __init__(self, compiled: Any) -> None:
        self._request: Any | None = compiled.create_infer_request()

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        if self._request is None:
            raise RuntimeError("the session is closed")
        # share_inputs: without a copy, as the other runtimes read them
        logits: np.ndarray = self._request.infer([images], share_inputs=True)[0]
        return logits.astype(np.float32, copy=True)

    def close(self) -> None:
        self._request = None


class OpenVino:
    """See the module."""

    def open(self, folder: Path, threads: int) -> Session:
        """Check the files' hashes against their record, then compile them for `threads` threads."""
        artifact = artifact_in(folder, "openvino", "openvino")
        settings: dict[str, str | int] = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = compile_file(folder / artifact.file, artifact.precision, **settings)
        if not runs_in(computes_in(compiled), artifact.precision):
            message, hint = NO_BF16
            raise WrongMachine(f"{folder} is in bf16, and {message}", hint)
        return OpenVinoSession(compiled)


PLUGIN: Runtime = OpenVino()
