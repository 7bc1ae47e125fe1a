"""OpenVINO on the CPU, for artifacts of the openvino target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import read_artifact
from toolkit.errors import WrongMachine
from toolkit.export.openvino_model import NO_BF16, compile_file, computes_in, runs_in


class OpenVinoSession(Session):
    """Session around an inference request of a compiled model."""

    def __init__(self, compiled: Any, spec: Identity) -> None:
        self.spec = spec
        self._request: Any | None = compiled.create_infer_request()

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        if self._request is None:
            raise RuntimeError("the session is closed")
        # share_inputs avoids a copy of the images, as in the other runtimes
        logits: np.ndarray = self._request.infer([images], share_inputs=True)[0]
        return logits.astype(np.float32, copy=True)

    def close(self) -> None:
        self._request = None


class OpenVino(Runtime):
    """OpenVINO with its CPU plugin."""

    needs = ("openvino",)
    opens_models = False

    def open(self, folder: Path, threads: int) -> Session:
        """Check the files' hashes, then compile the model for `threads` threads."""
        artifact = read_artifact(folder, "openvino", "openvino")
        settings: dict[str, str | int] = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = compile_file(folder / artifact.file, artifact.precision, **settings)
        if not runs_in(computes_in(compiled), artifact.precision):
            message, hint = NO_BF16
            raise WrongMachine(f"{folder} is in bf16, and {message}", hint)
        return OpenVinoSession(compiled, Identity.of_artifact(artifact))


PLUGIN: Runtime = OpenVino()
