"""OpenVINO's IR: `model.xml` and `model.bin`, for Intel and AMD processors and Intel GPUs.

bfloat16 is chosen when the file is loaded, by the runtime, on processors that have it; the file holds float32 then.

Its compiler ends with a segmentation fault on some graphs, so all of it happens in a process of its own.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import CheckFailed, StorageError, WrongMachine, plainly
from toolkit.export import Abilities, Target, Written
from toolkit.export.facts import facts
from toolkit.isolated import Isolated, NativeLibrary
from toolkit.progress import Progress
from toolkit.records import Fusion

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.calibrate import Images
    from toolkit.export.prepare import Prepared

NEEDS = ("openvino",)
FILE, WEIGHTS = "model.xml", "model.bin"
NO_BF16 = (
    "this processor does not have bf16: OpenVINO would compute in float32",
    "run it on a processor with AVX512-bf16 or AMX, or export it as fp32 or int8",
)
"""Message and hint."""
HINT = "another --batch-size or --attention may do, or --rewrites without pad-tokens"
"""For graphs that it fails on."""


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

    def guest(self, hint: str) -> NativeLibrary:
        return NativeLibrary.installed("OpenVINO", NEEDS, hint)

    def check_runs_here(self, options: recipe.Export) -> None:
        """WrongMachine for bf16 where OpenVINO would compute in float32."""
        if options.precision != "bf16":
            return
        with Isolated(self.guest(""), "compiling one operator", _compiled_operator, options.precision) as there:
            computed_in = there.call("saying what it computes in", computes_in)
        if not runs_in(computed_in, options.precision):
            raise WrongMachine(*NO_BF16)

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, report: Progress) -> Written:
        """Write the IR, run it and compare it with torch."""
        from toolkit.export import check

        onnx = check.serialized(prepared.proto)
        check.check_graph(prepared.proto, prepared.info, options)
        written = Written(FILE, (WEIGHTS,), ("onnx", "onnxscript", "openvino"))
        with Isolated(self.guest(HINT), "reading the graph", _Model, onnx, facts(prepared.info), out / FILE) as model:
            if not runs_in(model.call(f"compiling {FILE}", _Model.compile, options.precision), options.precision):
                return written

            def run(images: Images) -> Images:
                return model.call(f"running {FILE}", _Model.run, images)

            difference, lowered = check.judged(prepared, options, run)
            fused = model.call("describing what it runs", _Model.fusion, len(prepared.layouts))
        return replace(written, difference=difference, lowered=lowered, fusion=fused)


class _Model:
    """The model, where OpenVINO is."""

    def __init__(self, onnx: bytes, said: Mapping[str, str], file: Path) -> None:
        """Read the graph and write the IR; `said`: what the file says of itself."""
        import openvino

        self.file = file
        try:
            model = openvino.Core().read_model(io.BytesIO(onnx))
        except RuntimeError as error:
            what = f"OpenVINO {openvino.__version__} cannot read the graph: {plainly(error)}"
            raise CheckFailed(what, HINT) from error
        for name, value in said.items():
            model.set_rt_info(value, ["toolkit", name])
        try:
            openvino.save_model(model, file, compress_to_fp16=False)
        except RuntimeError as error:
            raise StorageError(
                f"cannot write {file}: {plainly(error)}", "make room on the disk and try again"
            ) from error

    def compile(self, precision: str) -> str:
        """Compile the IR; the type that it computes in."""
        self.compiled = compile_file(self.file, precision)
        return computes_in(self.compiled)

    def run(self, images: Images) -> Images:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        logits: Images = self.compiled([images])[0]
        return logits

    def fusion(self, blocks: int) -> tuple[Fusion, ...]:
        """What became of every block's attention."""
        from toolkit.export import fusion

        return fusion.in_openvino(self.compiled, blocks)


def _compiled_operator(precision: str) -> Any:
    """The smallest model there is, compiled."""
    import numpy as np
    import openvino
    from openvino import opset13 as operators

    numbers = operators.parameter([1, 4], dtype=np.float32)
    return _compile(openvino.Model([operators.relu(numbers)], [numbers], "one"), precision)


def compile_file(file: Path, precision: str, **settings: str | int) -> Any:
    """The model that OpenVINO runs on the processor; CheckFailed in its own words where it cannot.

    A processor with bfloat16 would compute in it, whatever the file says, were it not told otherwise.
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
    """ "bf16", "f32"."""
    return str(compiled.get_property("INFERENCE_PRECISION_HINT").type_name)


def runs_in(computed_in: str, precision: str) -> bool:
    """Whether this processor does as it was told: without bfloat16 it computes in float32, and does not say so."""
    return precision != "bf16" or computed_in == "bf16"


PLUGIN: Target = OpenVino()
