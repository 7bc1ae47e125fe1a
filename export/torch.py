"""`torch.export` programs, which PyTorch loads without this toolkit, compiled if there is a C++ compiler.

Compiled (AOTInductor), `model.pt2` is machine code for this kind of CPU, and `program.pt2` is the program that it was
compiled from, which `torch.export.load` opens anywhere. Without a C++ compiler `model.pt2` is the program itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import plugins
from toolkit.errors import StorageError
from toolkit.export import Target, Written
from toolkit.export.capabilities import Capabilities
from toolkit.export.file_metadata import file_metadata
from toolkit.isolated import Isolated, NativeLibrary
from toolkit.progress import Progress
from toolkit.section import Section

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from toolkit import recipe
    from toolkit.export.prepare import Prepared

FILE = "model.pt2"
COPIES = 6
"""Upper bound of the copies of the weights that compiling writes: object files, the library, the package."""


class TorchSettings(Section):
    compile: bool = True
    """Compile the torch program for this CPU, if there is a C++ compiler."""


@dataclass(frozen=True)
class TorchExport(Target):
    """`torch.export` programs, compiled or not."""

    settings: TorchSettings = TorchSettings()

    flag = "torch"
    help = "Write a torch.export program, compiled if there is a C++ compiler."
    runtime = "torch"
    needs = ("torch",)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            precisions=("fp32", "fp16", "bf16"),
            opsets=(17, 23),
            opset=20,
            attention=("decomposed",),
            unsupported={"int8": "Q/DQ nodes are supported in ONNX graphs only"},
        )

    def native_library(self, hint: str) -> NativeLibrary:
        return NativeLibrary.installed("PyTorch", ("torch",), hint)

    def depends_on(self) -> dict[str, str]:
        """The version of PyTorch and, for compiled code, the kind of CPU."""
        from toolkit.export.torch_program import cpu_kind

        versions = plugins.versions(self.needs)
        return {**versions, "processor": cpu_kind()} if self._compiles() else versions

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, progress: Progress) -> Written:
        """Write the program, compile it, load the result, and compare it with PyTorch in eager mode."""
        import torch

        from toolkit.export import check
        from toolkit.export.torch_program import PROGRAM, Program, compiled_program, cpu_kind, write_program

        example = torch.from_numpy(prepared.input.random(options.fixed_batch or 2, prepared.info.image_size))
        shapes = None if options.fixed_batch else ({0: torch.export.Dim("batch")},)
        program = torch.export.export(prepared.module, (example,), dynamic_shapes=shapes)
        compiled = self._compiles()
        write_program(program, file_metadata(prepared.info), out / (PROGRAM if compiled else FILE))
        if compiled:
            progress(0, 1, "compiling")
            _check_disk_space(program, out)
            library = self.native_library("--no-compile writes the program without compiling it")
            with Isolated(library, f"compiling {PROGRAM}", compiled_program, out / PROGRAM, out / FILE) as process:
                difference, lowered = check.check_file(
                    prepared, options, lambda images: process.call(f"running {FILE}", Program.run, images)
                )
        else:
            difference, lowered = check.check_file(prepared, options, Program(out / FILE, compiled=False).run)
        return Written(
            FILE,
            (PROGRAM,) if compiled else (),
            difference=difference,
            lowered=lowered,
            built_with={"torch": str(torch.__version__)},
            notes=tuple(self._notes(options)),
            compiled=compiled,
            architecture=cpu_kind() if compiled else None,
        )

    def _compiles(self) -> bool:
        return self.settings.compile and compiler() is not None

    def _notes(self, options: recipe.Export) -> Iterator[str]:
        from toolkit.models import native

        if self.settings.compile and not self._compiles():
            yield "not compiled: there is no C++ compiler"
        if native.emulated(options.precision):
            yield f"this CPU emulates {options.precision}: fp32 is faster here"


def compiler() -> str | None:
    """Path of the C++ compiler that PyTorch would call, or None."""
    return shutil.which((os.environ.get("CXX") or "g++").split()[0])


def _check_disk_space(program: ExportedProgram, out: Path) -> None:
    """StorageError if the disk is too full to compile; PyTorch's writer would abort the process."""
    weights = sum(value.nbytes for value in program.state_dict.values())
    for folder in (out, Path(tempfile.gettempdir())):
        if shutil.disk_usage(folder).free < COPIES * weights:
            raise StorageError(
                f"not enough disk space in {folder} to compile {weights / 1e6:.0f} MB of weights", "free disk space"
            )


PLUGIN: Target = TorchExport()
