"""OpenVINO's IR: `model.xml` and `model.bin`, for Intel and AMD processors and Intel GPUs.

bfloat16 is chosen when the file is loaded, by the runtime, on processors that have it; the file holds float32 then.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openvino

from toolkit.errors import CheckFailed, StorageError, plainly
from toolkit.export import Abilities, Target, Written
from toolkit.progress import Progress

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.calibrate import Images
    from toolkit.export.prepare import Prepared

FILE, WEIGHTS = "model.xml", "model.bin"


class OpenVino(Target):
    """See the module."""

    runtime = "openvino"

    def abilities(self) -> Abilities:
        return Abilities(
            precisions=("fp32", "bf16", "int8"),
            opsets=(17, 23),
            opset=20,
            attention=("packed", "decomposed", "standard"),
            at_load=("bf16",),
            all_rows_in_fixed_batches=True,  # 2026.4: a segmentation fault in compile_model, from a batch of 4 on
            tokens_multiple=4,
            linear_patches=True,
            lacking={
                "fp16": "processors compute it in float32",
                "custom": "it does not read functions inside a graph",
            },
        )

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, report: Progress) -> Written:
        """Write the IR, run it and compare it with torch."""
        from toolkit.export import check, fusion

        onnx, core = check.serialized(prepared.proto), openvino.Core()
        check.check_graph(prepared.proto, prepared.info, options)
        try:
            model = core.read_model(io.BytesIO(onnx))
        except RuntimeError as error:
            raise CheckFailed(f"OpenVINO {openvino.__version__} cannot read the graph: {plainly(error)}") from error
        try:
            openvino.save_model(model, out / FILE, compress_to_fp16=False)
        except RuntimeError as error:
            raise StorageError(
                f"cannot write {out / FILE}: {plainly(error)}", "make room on the disk and try again"
            ) from error
        written = Written(FILE, (WEIGHTS,), ("onnx", "onnxscript", "openvino"))
        compiled = compile_file(out / FILE, options.precision)
        if not runs_in(compiled, options.precision):
            return written

        def run(images: Images) -> Images:
            logits: Images = compiled([images])[0]
            return logits

        return replace(
            written,
            difference=check.difference(prepared, options, run),
            lowered=None if options.precision == "fp32" else check.costs(prepared, options, run),
            fusion=fusion.in_openvino(compiled, len(prepared.layouts)),
        )


def compile_file(file: Path, precision: str, **settings: str | int) -> Any:
    """The model that OpenVINO runs on the processor; CheckFailed in its own words where it cannot.

    A processor with bfloat16 would compute in it, whatever the file says, were it not told otherwise.
    """
    hint = "bf16" if precision == "bf16" else "f32"
    try:
        return openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": hint, **settings})
    except RuntimeError as error:
        raise CheckFailed(f"OpenVINO {openvino.__version__} cannot compile {file}: {plainly(error)}") from error


def runs_in(compiled: Any, precision: str) -> bool:
    """Whether this processor does as it was told: without bfloat16 it computes in float32, and does not say so."""
    return precision != "bf16" or bool(compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.bf16)


PLUGIN: Target = OpenVino()
