"""`torch.export` programs, which PyTorch loads without this toolkit, compiled if there is a C++ compiler.

Compiled (AOTInductor), `model.pt2` is machine code for this kind of CPU, and `program.pt2` is the program that it was
compiled from, which `torch.export.load` opens anywhere. Without a C++ compiler `model.pt2` is the program itself.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from toolkit import hashing
from toolkit.errors import CheckFailed, StorageError, plainly
from toolkit.export import Capabilities, Target, Written
from toolkit.export.file_metadata import file_metadata
from toolkit.isolated import Isolated, NativeLibrary
from toolkit.limits import cpu_flags
from toolkit.models import native
from toolkit.progress import Progress

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.prepare import Prepared
    from toolkit.pixels import Array

FILE, PROGRAM = "model.pt2", "program.pt2"
METADATA = "facts.json"
"""Extra file inside a program; see `file_metadata`."""
COPIES = 6
"""Upper bound of the copies of the weights that compiling writes: object files, the library, the package."""


class TorchExport(Target):
    """`torch.export` programs, compiled or not."""

    runtime = "torch"
    used_settings = ("compile",)

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

    def depends_on(self, options: recipe.Export) -> dict[str, str]:
        """The kind of CPU and the version of PyTorch that compiled code is tied to."""
        if not options.compile or compiler() is None:
            return {}
        return {"processor": cpu_kind(), "torch": str(torch.__version__)}

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, progress: Progress) -> Written:
        """Write the program, compile it, load the result, and compare it with PyTorch in eager mode."""
        from toolkit.export import check

        example = torch.from_numpy(prepared.input.random(options.fixed_batch or 2, prepared.info.image_size))
        shapes = None if options.fixed_batch else ({0: torch.export.Dim("batch")},)
        program = torch.export.export(prepared.module, (example,), dynamic_shapes=shapes)
        compiled = options.compile and compiler() is not None
        _write(program, file_metadata(prepared.info), out / (PROGRAM if compiled else FILE))
        if compiled:
            progress(0, 1, "compiling")
            _check_disk_space(program, out)
            library = self.native_library("--no-compile writes the program without compiling it")
            with Isolated(library, f"compiling {PROGRAM}", _compiled, out / PROGRAM, out / FILE) as process:
                difference, lowered = check.check_file(
                    prepared, options, lambda images: process.call(f"running {FILE}", _Program.run, images)
                )
        else:
            difference, lowered = check.check_file(prepared, options, _Program(out / FILE, compiled=False).run)
        return Written(
            FILE,
            (PROGRAM,) if compiled else (),
            difference=difference,
            lowered=lowered,
            tied_to={"torch": str(torch.__version__)},
            notes=tuple(_notes(options, compiled)),
            compiled=compiled,
            architecture=cpu_kind() if compiled else None,
        )


def load(file: Path, *, compiled: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """A file written by `TorchExport.write`, as a callable from images [batch, 3, S, S] to logits [batch, classes]."""
    if compiled:
        code = torch._inductor.aoti_load_package(str(file))

        def run(images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = code(images.contiguous())  # compiled code ignores strides
            return logits

        return run
    program: Callable[[torch.Tensor], torch.Tensor] = torch.export.load(file).module()
    return program


class _Program:
    """A loaded file."""

    def __init__(self, file: Path, *, compiled: bool) -> None:
        self._run = load(file, compiled=compiled)

    def run(self, images: Array) -> Array:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        with torch.inference_mode():
            logits: Array = self._run(torch.from_numpy(images)).numpy()
        return logits


def _compiled(program: Path, file: Path) -> _Program:
    """Compile a program. Called in a subprocess: PyTorch's file writers and compiled code can crash it."""
    settings = {"cpp.dynamic_threads": True}  # else this machine's number of threads would be compiled in
    loaded = torch.export.load(program)
    try:
        torch._inductor.aoti_compile_and_package(loaded, package_path=str(file), inductor_configs=settings)
    except torch._inductor.exc.InductorError as error:
        raise CheckFailed(f"PyTorch cannot compile this model: {plainly(error)}", "--no-compile") from error
    return _Program(file, compiled=True)


def compiler() -> str | None:
    """Path of the C++ compiler that PyTorch would call, or None."""
    return shutil.which((os.environ.get("CXX") or "g++").split()[0])


def cpu_kind() -> str:
    """Kind of this machine's CPU: its architecture and a hash of the instruction sets that compiled code may use."""
    return f"{platform.machine()}-{hashing.digest(sorted(cpu_flags()))[:8]}"


def _notes(options: recipe.Export, compiled: bool) -> Iterator[str]:
    if options.compile and not compiled:
        yield "not compiled: there is no C++ compiler"
    if native.emulated(options.precision):
        yield f"this CPU emulates {options.precision}: fp32 is faster here"


def _write(program: torch.export.ExportedProgram, metadata: dict[str, str], file: Path) -> None:
    buffer = io.BytesIO()  # PyTorch's own writer aborts the process on a full disk
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    try:
        file.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise StorageError(f"cannot write {file}: {plainly(error)}", "free disk space and try again") from error


def _check_disk_space(program: torch.export.ExportedProgram, out: Path) -> None:
    """StorageError if the disk is too full to compile; PyTorch's writer would abort the process."""
    weights = sum(value.nbytes for value in program.state_dict.values())
    for folder in (out, Path(tempfile.gettempdir())):
        if shutil.disk_usage(folder).free < COPIES * weights:
            raise StorageError(
                f"not enough disk space in {folder} to compile {weights / 1e6:.0f} MB of weights", "free disk space"
            )


PLUGIN: Target = TorchExport()
