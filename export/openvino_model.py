"""Read, compile and run OpenVINO models inside OpenVINO's process. Its compiler crashes with a segmentation fault on
some graphs.

Imports neither torch nor pydantic: devices import it too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import CheckFailed, StorageError, plainly
from toolkit.records import Fusion

if TYPE_CHECKING:
    from toolkit.pixels import Array

NO_BF16 = (
    "this CPU has no bf16 support: OpenVINO would compute in float32",
    "run it on a CPU with AVX512-bf16 or AMX, or export it as fp32 or int8",
)
"""Message and hint."""
HINT = "try another --batch-size or --attention, or --rewrites without pad-tokens"
"""Hint for graphs on which OpenVINO fails."""


class IrModel:
    """A model inside OpenVINO's process."""

    def __init__(self, onnx: bytes, metadata: Mapping[str, str], file: Path) -> None:
        """Read the graph and write the IR with its metadata."""
        import openvino

        self.file = file
        try:
            model = openvino.Core().read_model(io.BytesIO(onnx))
        except RuntimeError as error:
            what = f"OpenVINO {openvino.__version__} cannot read the graph: {plainly(error)}"
            raise CheckFailed(what, HINT) from error
        for name, value in metadata.items():
            model.set_rt_info(value, ["toolkit", name])
        try:
            openvino.save_model(model, file, compress_to_fp16=False)
        except RuntimeError as error:
            raise StorageError(f"cannot write {file}: {plainly(error)}", "free disk space and try again") from error

    def compile(self, precision: str) -> str:
        """Compile the IR; returns the dtype that it computes in."""
        self.compiled = compile_file(self.file, precision)
        return computes_in(self.compiled)

    def run(self, images: Array) -> Array:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        logits: Array = self.compiled([images])[0]
        return logits

    def fusion(self, attentions: Sequence[str]) -> tuple[Fusion, ...]:
        """Fusion status of every block's attention."""
        from toolkit.export import fusion

        return fusion.in_openvino(self.compiled, attentions)


def compiled_operator(precision: str) -> Any:
    """A compiled model of one operator."""
    import numpy as np
    import openvino
    from openvino import opset13 as operators

    numbers = operators.parameter([1, 4], dtype=np.float32)
    return _compile(openvino.Model([operators.relu(numbers)], [numbers], "one"), precision)


def compile_file(file: Path, precision: str, **settings: str | int) -> Any:
    """The file compiled for the CPU; CheckFailed, with OpenVINO's reason, if that fails.

    The precision is always explicit: OpenVINO would otherwise use bfloat16 on every CPU that supports it.
    """
    import openvino

    try:
        return _compile(file, precision, **settings)
    except RuntimeError as error:
        what = f"OpenVINO {openvino.__version__} cannot compile {file.name}: {plainly(error)}"
        raise CheckFailed(what, HINT) from error


def _compile(model: Any, precision: str, **settings: str | int) -> Any:
    import openvino

    hint = "bf16" if precision == "bf16" else "f32"
    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint, **settings})


def computes_in(compiled: Any) -> str:
    """Dtype that a compiled model computes in: "bf16" or "f32"."""
    return str(compiled.get_property("INFERENCE_PRECISION_HINT").type_name)


def runs_in(computed_in: str, precision: str) -> bool:
    """Whether the CPU honours the bf16 hint: without bf16 support, OpenVINO silently computes in float32."""
    return precision != "bf16" or computed_in == "bf16"
