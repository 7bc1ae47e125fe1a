"""OpenVINO IR, `model.xml` and `model.bin`, for Intel and AMD CPUs and Intel GPUs.

The file holds float32 weights; OpenVINO applies bfloat16 when it loads the file, on CPUs with bf16 support.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import WrongMachine
from toolkit.export import Target, Written
from toolkit.export.capabilities import Capabilities
from toolkit.export.file_metadata import file_metadata
from toolkit.export.graph_settings import GRAPH_LIBRARIES, GraphSettings
from toolkit.export.openvino_model import HINT, NO_BF16, IrModel, compiled_operator, computes_in, runs_in
from toolkit.isolated import Isolated, NativeLibrary
from toolkit.progress import Progress

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.prepare import Prepared
    from toolkit.pixels import Array

FILE, WEIGHTS = "model.xml", "model.bin"


@dataclass(frozen=True)
class OpenVino(Target):
    """OpenVINO IR files."""

    settings: GraphSettings = GraphSettings()

    flag = "openvino"
    help = "Write OpenVINO IR, for CPUs."
    runtime = "openvino"
    needs = (*GRAPH_LIBRARIES, "openvino")

    def capabilities(self) -> Capabilities:
        return Capabilities(
            precisions=("fp32", "bf16", "int8"),
            opsets=(17, 23),
            opset=self.settings.opset or 20,
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
        return NativeLibrary.installed("OpenVINO", ("openvino",), hint)

    def check_runs_here(self, options: recipe.Export) -> None:
        """WrongMachine for bf16 if OpenVINO would compute in float32."""
        if options.precision != "bf16":
            return
        library = self.native_library("")
        with Isolated(library, "compiling one operator", compiled_operator, options.precision) as process:
            computed_in = process.call("querying its precision", computes_in)
        if not runs_in(computed_in, options.precision):
            raise WrongMachine(*NO_BF16)

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, progress: Progress) -> Written:
        """Write the IR, run it and compare it with PyTorch."""
        from toolkit.export import check

        onnx, metadata = check.serialized(prepared.proto), file_metadata(prepared.info)
        check.check_graph(prepared.proto, prepared.info, options)
        written = Written(FILE, (WEIGHTS,))
        with Isolated(self.native_library(HINT), "reading the graph", IrModel, onnx, metadata, out / FILE) as model:
            if not runs_in(model.call(f"compiling {FILE}", IrModel.compile, options.precision), options.precision):
                return written

            def predict(images: Array) -> Array:
                return model.call(f"running {FILE}", IrModel.run, images)

            difference, lowered = check.check_file(prepared, options, predict)
            blocks_fused = model.call("listing its operations", IrModel.fusion, [*prepared.layouts])
        return replace(written, difference=difference, lowered=lowered, fusion=blocks_fused)


PLUGIN: Target = OpenVino()
