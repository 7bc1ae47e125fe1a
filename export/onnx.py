"""ONNX: one file, run and compared by onnxruntime before it counts."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import ModelProto

from toolkit.errors import StorageError, WrongMachine, plainly
from toolkit.export import Abilities, Target, Written
from toolkit.export.facts import facts
from toolkit.isolated import NativeLibrary
from toolkit.progress import Progress

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.prepare import Prepared

FILE, WEIGHTS = "model.onnx", "model.onnx.data"
NOTES = {
    "fp16": ("fp16 is for GPUs: onnxruntime is no faster in it on processors than in fp32",),
    "bf16": ("onnxruntime runs no bf16 on processors: the accuracy is that of the same module in PyTorch",),
}


class Onnx(Target):
    """See the module."""

    runtime = "onnxruntime"

    def abilities(self) -> Abilities:
        return Abilities(
            precisions=("fp32", "fp16", "bf16", "int8"),
            opsets=(17, 23),
            opset=23,
            attention=("standard", "decomposed", "packed", "custom"),
            any_image_size=True,
        )

    def guest(self, hint: str) -> NativeLibrary:
        from toolkit.export import onnx_session

        return onnx_session.guest(hint)

    def check_runs_here(self, options: recipe.Export) -> None:
        """WrongMachine for bf16."""
        if options.precision == "bf16":
            raise WrongMachine(
                "onnxruntime has no kernels for bf16 on processors",
                "onnxruntime runs fp32, fp16 and int8 (--precision); OpenVINO runs bf16 (--openvino)",
            )

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, report: Progress) -> Written:
        """Write `model.onnx`, and `model.onnx.data` beside it where one file cannot hold the weights."""
        from toolkit.export import check, fusion, onnx_session

        onnx.helper.set_model_props(prepared.proto, facts(prepared.info))
        file = out / FILE
        beside = _write(prepared.proto, file)
        check.check_graph(prepared.proto, prepared.info, options, file)
        libraries = ("onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")
        written = Written(FILE, beside, libraries, notes=NOTES.get(options.precision, ()))
        if options.precision == "bf16":  # onnxruntime has no kernels for it on processors
            return replace(written, options={"graph_difference": check.difference_in_onnxruntime(prepared, options)})
        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder) / FILE
            with onnx_session.opened(file, optimised) as run:
                difference = check.difference(prepared, options, run)
                # In int8 this very graph has been asked when its blocks were chosen.
                lowered = check.costs(prepared, options, run) if options.precision == "fp16" else None
            fused = fusion.in_onnxruntime(file, optimised, len(prepared.layouts), prepared.opset)
        return replace(written, difference=difference, lowered=lowered, fusion=fused)


def _write(proto: ModelProto, file: Path) -> tuple[str, ...]:
    """Returns the names of files beside it: weights that one file cannot hold."""
    from toolkit.export.trace import fits

    large = not fits(proto)
    try:
        if large:
            onnx.save(proto, file, save_as_external_data=True, location=WEIGHTS)
        else:
            onnx.save(proto, file)
    except OSError as error:
        raise StorageError(f"cannot write {file}: {plainly(error)}", "make room on the disk and try again") from error
    return (WEIGHTS,) if large else ()


PLUGIN: Target = Onnx()
