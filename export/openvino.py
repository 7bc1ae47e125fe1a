"""OpenVINO's IR: `model.xml` and `model.bin`, for Intel and AMD processors and Intel GPUs.

bfloat16 is chosen when the file is loaded, by the runtime, on processors that have it; the file holds float32 then.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import openvino

from toolkit.errors import StorageError
from toolkit.export import Abilities, Target, Written
from toolkit.progress import Progress

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.prepare import Prepared

FILE, WEIGHTS = "model.xml", "model.bin"


class OpenVino:
    """See the module."""

    runtime = "openvino"

    def abilities(self) -> Abilities:
        return Abilities(
            precisions=("fp32", "bf16", "int8"),
            opsets=(17, 23),
            opset=20,
            attention=("decomposed", "standard"),
            at_load=("bf16",),
            all_rows_in_fixed_batches=True,  # 2026.4: a segmentation fault in compile_model, from a batch of 4 on
            lacking={
                "fp16": "processors compute it in float32",
                "custom": "it does not read functions inside a graph",
            },
        )

    def check(self, options: recipe.Export) -> None:
        """It has no settings of its own."""

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, report: Progress) -> Written:
        """Write the IR, run it and compare it with torch."""
        from toolkit.export import check, fusion

        check.check_graph(prepared.proto, prepared.info, options)
        core = openvino.Core()
        model = core.read_model(io.BytesIO(prepared.proto.SerializeToString()))
        try:
            openvino.save_model(model, out / FILE, compress_to_fp16=False)
        except RuntimeError as error:
            raise StorageError(f"cannot write {out / FILE}: {error}", "make room on the disk and try again") from error
        hint = "bf16" if options.precision == "bf16" else "f32"
        compiled = core.compile_model(out / FILE, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        found = check.difference(prepared, options, lambda images: compiled([images])[0])
        return Written(
            FILE,
            (WEIGHTS,),
            ("onnx", "onnxscript", "openvino"),
            found,
            fusion.in_openvino(compiled, len(prepared.layouts)),
        )


PLUGIN: Target = OpenVino()
