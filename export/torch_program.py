"""Write, compile, load and run `torch.export` programs as files."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from toolkit import hashing
from toolkit.errors import CheckFailed, StorageError, plainly
from toolkit.limits import cpu_flags

if TYPE_CHECKING:
    from toolkit.pixels import Array

PROGRAM = "program.pt2"
METADATA = "facts.json"
"""Extra file inside a program; see `file_metadata`."""


def write_program(program: torch.export.ExportedProgram, metadata: dict[str, str], file: Path) -> None:
    buffer = io.BytesIO()  # PyTorch's own writer aborts the process on a full disk
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    try:
        file.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise StorageError(f"cannot write {file}: {plainly(error)}", "free disk space and try again") from error


def load(file: Path, *, compiled: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """A file written by the torch target, as a callable from images [batch, 3, S, S] to logits [batch, classes]."""
    if compiled:
        code = torch._inductor.aoti_load_package(str(file))

        def run(images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = code(images.contiguous())  # compiled code ignores strides
            return logits

        return run
    program: Callable[[torch.Tensor], torch.Tensor] = torch.export.load(file).module()
    return program


class Program:
    """A loaded file."""

    def __init__(self, file: Path, *, compiled: bool) -> None:
        self._run = load(file, compiled=compiled)

    def run(self, images: Array) -> Array:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        with torch.inference_mode():
            logits: Array = self._run(torch.from_numpy(images)).numpy()
        return logits


def compiled_program(program: Path, file: Path) -> Program:
    """Compile a program. Called in a subprocess: PyTorch's file writers and compiled code can crash it."""
    settings = {"cpp.dynamic_threads": True}  # otherwise this machine's number of threads would be compiled in
    loaded = torch.export.load(program)
    try:
        torch._inductor.aoti_compile_and_package(loaded, package_path=str(file), inductor_configs=settings)
    except torch._inductor.exc.InductorError as error:
        raise CheckFailed(f"PyTorch cannot compile this model: {plainly(error)}", "--no-compile") from error
    return Program(file, compiled=True)


def cpu_kind() -> str:
    """Kind of this machine's CPU: its architecture and a hash of the instruction sets that compiled code may use."""
    return f"{platform.machine()}-{hashing.digest(sorted(cpu_flags()))[:8]}"
