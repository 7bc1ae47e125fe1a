"""PyTorch's own export (`torch.export`): a program for PyTorch without this toolkit, and compiled code where it can be.

Compiled (AOTInductor), `model.pt2` is machine code for this kind of processor, and `program.pt2` beside it is what it
was made of, which `torch.export.load` opens anywhere. Without a C++ compiler `model.pt2` is the program itself.
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
from toolkit.export import Abilities, Target, Written
from toolkit.export.facts import facts
from toolkit.isolated import Isolated, NativeLibrary
from toolkit.limits import cpu_flags
from toolkit.models import native
from toolkit.progress import Progress

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.calibrate import Images
    from toolkit.export.prepare import Prepared

FILE, PROGRAM = "model.pt2", "program.pt2"
FACTS = "facts.json"
"""Extra file inside of a program; see `facts`."""
COPIES = 6
"""Of the weights, as objects, as a library and in the package, that compiling writes at most."""


class TorchExport(Target):
    """See the module."""

    runtime = "torch"
    reads = ("compile",)

    def abilities(self) -> Abilities:
        return Abilities(
            precisions=("fp32", "fp16", "bf16"),
            opsets=(17, 23),
            opset=20,
            attention=("decomposed",),
            lacking={"int8": "Q/DQ is written into ONNX graphs only"},
        )

    def guest(self, hint: str) -> NativeLibrary:
        return NativeLibrary.installed("PyTorch", ("torch",), hint)

    def depends_on(self, options: recipe.Export) -> dict[str, str]:
        """Compiled code is for one kind of processor and one version of PyTorch."""
        if not options.compile or compiler() is None:
            return {}
        return {"processor": processor(), "torch": str(torch.__version__)}

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, report: Progress) -> Written:
        """Write the program, compile it, load what is to run again, and compare it with torch."""
        from toolkit.export import check
        from toolkit.export.prepare import random_images

        example = torch.from_numpy(random_images(prepared.info, options, options.fixed_batch or 2))
        shapes = None if options.fixed_batch else ({0: torch.export.Dim("batch")},)
        program = torch.export.export(prepared.module, (example,), dynamic_shapes=shapes)
        compiled = options.compile and compiler() is not None
        _write(program, facts(prepared.info), out / (PROGRAM if compiled else FILE))
        if compiled:
            report(0, 1, "compiling")
            _check_room(program, out)
            guest = self.guest("--no-compile writes the program alone")
            with Isolated(guest, f"compiling {PROGRAM}", _compiled, out / PROGRAM, out / FILE) as there:
                difference, lowered = check.judged(
                    prepared, options, lambda images: there.call(f"running {FILE}", _Program.run, images)
                )
        else:
            difference, lowered = check.judged(prepared, options, _Program(out / FILE, compiled=False).run)
        return Written(
            FILE,
            (PROGRAM,) if compiled else (),
            difference=difference,
            lowered=lowered,
            builder={"torch": str(torch.__version__)},
            notes=tuple(_notes(options, compiled)),
            options={"compiled": compiled},
            architecture=processor() if compiled else None,
        )


def load(file: Path, *, compiled: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """What `write` has written, ready to be called with images [batch, 3, S, S]."""
    if compiled:
        code = torch._inductor.aoti_load_package(str(file))

        def run(images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = code(images.contiguous())  # it would not look at their strides
            return logits

        return run
    program: Callable[[torch.Tensor], torch.Tensor] = torch.export.load(file).module()
    return program


class _Program:
    """What was written, loaded again."""

    def __init__(self, file: Path, *, compiled: bool) -> None:
        self._run = load(file, compiled=compiled)

    def run(self, images: Images) -> Images:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        with torch.inference_mode():
            logits: Images = self._run(torch.from_numpy(images)).numpy()
        return logits


def _compiled(program: Path, file: Path) -> _Program:
    """Compile a program. In a process of its own: PyTorch's writers, and compiled code, may take it with them."""
    settings = {"cpp.dynamic_threads": True}  # else as many threads as there are here, whatever is asked for later
    loaded = torch.export.load(program)
    try:
        torch._inductor.aoti_compile_and_package(loaded, package_path=str(file), inductor_configs=settings)
    except torch._inductor.exc.InductorError as error:
        raise CheckFailed(f"PyTorch cannot compile this model: {plainly(error)}", "--no-compile") from error
    return _Program(file, compiled=True)


def compiler() -> str | None:
    """Path of the C++ compiler that PyTorch would call."""
    return shutil.which((os.environ.get("CXX") or "g++").split()[0])


def processor() -> str:
    """Kind of this machine's processor: its family and a hash of all the instructions that compiled code may use."""
    return f"{platform.machine()}-{hashing.digest(sorted(cpu_flags()))[:8]}"


def _notes(options: recipe.Export, compiled: bool) -> Iterator[str]:
    if options.compile and not compiled:
        yield "not compiled: there is no C++ compiler"
    if native.emulated(options.precision):
        yield f"this CPU emulates {options.precision}: fp32 is faster here"


def _write(program: torch.export.ExportedProgram, said: dict[str, str], file: Path) -> None:
    buffer = io.BytesIO()  # on a full disk PyTorch's own writer aborts the process
    torch.export.save(program, buffer, extra_files={FACTS: json.dumps(said)})
    try:
        file.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise StorageError(f"cannot write {file}: {plainly(error)}", "make room on the disk and try again") from error


def _check_room(program: torch.export.ExportedProgram, out: Path) -> None:
    weights = sum(value.nbytes for value in program.state_dict.values())
    for folder in (out, Path(tempfile.gettempdir())):
        if shutil.disk_usage(folder).free < COPIES * weights:  # as above
            raise StorageError(f"{folder} has no room to compile {weights / 1e6:.0f} MB of weights", "make room on it")


PLUGIN: Target = TorchExport()
