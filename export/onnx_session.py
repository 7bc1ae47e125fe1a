"""onnxruntime sessions in a subprocess."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.export.calibrate import Predict
from toolkit.export.capabilities import INPUT, OUTPUT
from toolkit.isolated import Isolated, NativeLibrary
from toolkit.pixels import Array


def native_library(hint: str = "try another --attention, --opset or --precision") -> NativeLibrary:
    """The installed onnxruntime with its version."""
    return NativeLibrary.installed("onnxruntime", ("onnxruntime-gpu", "onnxruntime"), hint)


@contextmanager
def opened(model: bytes | Path, optimised: Path | None = None) -> Iterator[Predict]:
    """Predictions of a graph; `optimised`: where to write onnxruntime's optimised graph, with external weights."""
    name = model.name if isinstance(model, Path) else "the graph"
    with Isolated(native_library(), f"opening {name}", OnnxSession, model, optimised) as session:
        yield lambda images: session.call(f"running {name}", OnnxSession.run, images)


class OnnxSession:
    """An `InferenceSession` on the CPU, inside onnxruntime's process."""

    def __init__(self, model: bytes | Path, optimised: Path | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if optimised:
            options.optimized_model_filepath = str(optimised)
            # With the weights inside, the file could exceed protobuf's 2 GiB.
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, images: Array) -> Array:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        logits: Array = self._session.run([OUTPUT], {INPUT: images})[0]
        return logits
