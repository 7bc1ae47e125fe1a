"""OpenVINO IR, `model.xml` and `model.bin`, for Intel and AMD CPUs and Intel GPUs.

The file holds float32 weights; OpenVINO applies bfloat16 when it loads the file, on CPUs with bf16 support.

OpenVINO runs in a subprocess: its compiler crashes with a segmentation fault on some graphs.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import CheckFailed, StorageError, WrongMachine, plainly
from toolkit.export import Capabilities, Target, Written
from toolkit.export.file_metadata import file_metadata
from toolkit.isolated import Isolated, NativeLibrary
from toolkit.progress import Progress
from toolkit.records import Fusion

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.prepare import Prepared
    from toolkit.pixels import Array

NEEDS = ("openvino",)
FILE, WEIGHTS = "model.xml", "model.bin"
NO_BF16 = (
    "this CPU has no bf16 support: OpenVINO would compute in float32",
    "run it on a CPU with AVX512-bf16 or AMX, or export it as fp32 or int8",
)
"""Message and hint."""
HINT = "try another --batch-size or --attention, or --rewrites without pad-tokens"
"""Hint for graphs that OpenVINO fails on."""


class OpenVino(Target):
    """OpenVINO IR files."""

    runtime = "openvino"

    def capabilities(self) -> Capabilities:
        return Capabilities(
            precisions=("fp32", "bf16", "int8"),
            opsets=(17, 23),
            opset=20,
            attention=("packed", "decomposed", "standard"),
            applied_at_load=("bf16",),
            fixed_batch_needs_all_queries=True,  # 2026.4: segmentation fault in compile_model for batch sizes >= 4
            tokens_multiple=4,
            linear_patches=True,
            unsupported={
                "fp16": "CPUs would compute in float32",
                "custom": "OpenVINO does not support functions inside a graph",
            },
        )

    def native_library(self, hint: str) -> NativeLibrary:
        return NativeLibrary.installed("OpenVINO", NEEDS, hint)

    def check_runs_here(self, options: recipe.Export) -> None:
        """WrongMachine for bf16 if OpenVINO would compute in float32."""
        if options.precision != "bf16":
            return
        library = self.native_library("")
        with Isolated(library, "compiling one operator", _compiled_operator, options.precision) as process:
            computed_in = process.call("querying its precision", computes_in)
        if not runs_in(computed_in, options.precision):
            raise WrongMachine(*NO_BF16)

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, progress: Progress) -> Written:
        """Write the IR, run it and compare it with PyTorch."""
        from toolkit.export import check

        onnx, metadata = check.serialized(prepared.proto), file_metadata(prepared.info)
        check.check_graph(prepared.proto, prepared.info, options)
        written = Written(FILE, (WEIGHTS,), ("onnx", "onnxscript", "openvino"))
        with Isolated(self.native_library(HINT), "reading the graph", _Model, onnx, metadata, out / FILE) as model:
            if not runs_in(model.call(f"compiling {FILE}", _Model.compile, options.precision), options.precision):
                return written

            def predict(images: Array) -> Array:
                return model.call(f"running {FILE}", _Model.run, images)

            difference, lowered = check.check_file(prepared, options, predict)
            blocks_fused = model.call("listing its operations", _Model.fusion, [*prepared.layouts])
        return replace(written, difference=difference, lowered=lowered, fusion=blocks_fused)


class _Model:
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


def _compiled_operator(precision: str) -> Any:
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


PLUGIN: Target = OpenVino()
