"""A graph that onnxruntime runs, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.export import INPUT, OUTPUT
from toolkit.export.calibrate import Images, Predict
from toolkit.isolated import Isolated, NativeLibrary


def guest(hint: str = "another --attention, --opset or --precision may do") -> NativeLibrary:
    """Which onnxruntime it is."""
    return NativeLibrary.installed("onnxruntime", ("onnxruntime-gpu", "onnxruntime"), hint)


@contextmanager
def opened(model: bytes | Path, optimised: Path | None = None) -> Iterator[Predict]:
    """Its answers; `optimised`: the file for what onnxruntime makes of the graph, with weights beside it."""
    name = model.name if isinstance(model, Path) else "the graph"
    with Isolated(guest(), f"opening {name}", OnnxSession, model, optimised) as session:
        yield lambda images: session.call(f"running {name}", OnnxSession.run, images)


class OnnxSession:
    """An `InferenceSession` on the processor, where onnxruntime is."""

    def __init__(self, model: bytes | Path, optimised: Path | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if optimised:
            options.optimized_model_filepath = str(optimised)
            # With them in it, it may be more than a file can hold.
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, images: Images) -> Images:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        logits: Images = self._session.run([OUTPUT], {INPUT: images})[0]
        return logits
