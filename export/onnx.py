"""ONNX, compared with PyTorch in onnxruntime."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import StorageError, WrongMachine, plainly
from toolkit.export import Target, Written
from toolkit.export.capabilities import Capabilities
from toolkit.export.file_metadata import file_metadata
from toolkit.export.graph_settings import GRAPH_LIBRARIES, GraphSettings
from toolkit.isolated import NativeLibrary
from toolkit.progress import Progress

if TYPE_CHECKING:
    from onnx import ModelProto

    from toolkit import recipe
    from toolkit.export.prepare import Prepared

FILE, WEIGHTS = "model.onnx", "model.onnx.data"
NOTES = {
    "fp16": ("fp16 is for GPUs: on CPUs, onnxruntime is not faster in fp16 than in fp32",),
    "bf16": ("onnxruntime has no bf16 CPU kernels: the accuracy was measured in PyTorch",),
}


@dataclass(frozen=True)
class Onnx(Target):
    """ONNX files for onnxruntime and other runtimes."""

    settings: GraphSettings = GraphSettings()

    flag = "onnx"
    help = "Write ONNX (the default)."
    runtime = "onnxruntime"
    needs = (*GRAPH_LIBRARIES, "onnxruntime")

    def capabilities(self) -> Capabilities:
        return Capabilities(
            precisions=("fp32", "fp16", "bf16", "int8"),
            opsets=(17, 23),
            opset=self.settings.opset or 23,
            attention=("standard", "decomposed", "packed", "custom"),
            any_image_size=True,
        )

    def native_library(self, hint: str) -> NativeLibrary:
        from toolkit.export import onnx_session

        return onnx_session.native_library(hint)

    def check_runs_here(self, options: recipe.Export) -> None:
        """WrongMachine for bf16."""
        if options.precision == "bf16":
            raise WrongMachine(
                "onnxruntime has no bf16 CPU kernels",
                "onnxruntime supports fp32, fp16 and int8 (--precision); OpenVINO supports bf16 (--openvino)",
            )

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, progress: Progress) -> Written:
        """Write `model.onnx`, and `model.onnx.data` if the weights exceed 2 GiB."""
        import onnx

        from toolkit.export import check, fusion, onnx_session

        onnx.helper.set_model_props(prepared.proto, file_metadata(prepared.info))
        file = out / FILE
        extra_files = _write(prepared.proto, file)
        check.check_graph(prepared.proto, prepared.info, options, file)
        written = Written(FILE, extra_files, notes=NOTES.get(options.precision, ()))
        if options.precision == "bf16":  # onnxruntime has no bf16 CPU kernels
            return replace(written, graph_difference=check.difference_in_onnxruntime(prepared, options))
        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder) / FILE
            with onnx_session.opened(file, optimised) as predict:
                difference = check.difference(prepared, options, predict)
                # In int8, this graph's accuracy was measured when its blocks were selected.
                lowered = check.check_accuracy(prepared, options, predict) if options.precision == "fp16" else None
            blocks_fused = fusion.in_onnxruntime(file, optimised, [*prepared.layouts], prepared.opset)
        return replace(written, difference=difference, lowered=lowered, fusion=blocks_fused)


def _write(proto: ModelProto, file: Path) -> tuple[str, ...]:
    """Write the graph; returns the names of external weight files."""
    import onnx

    from toolkit.export.trace import fits_one_file

    large = not fits_one_file(proto)
    try:
        if large:
            onnx.save(proto, file, save_as_external_data=True, location=WEIGHTS)
        else:
            onnx.save(proto, file)
    except OSError as error:
        raise StorageError(f"cannot write {file}: {plainly(error)}", "free disk space and try again") from error
    return (WEIGHTS,) if large else ()


PLUGIN: Target = Onnx()
