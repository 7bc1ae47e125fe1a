"""Machine code for a GPU that need not be here, and what the compiler made of it.

What is compiled: the kernels as `headwise_launch` launches them, or a whole layer for programs without Triton.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from toolkit.kernels.headwise_backward import backward_keys, backward_queries
from toolkit.kernels.headwise_forward import layer, online, whole_row
from toolkit.kernels.headwise_layer import Constant, Layer
from toolkit.kernels.headwise_settings import Plan

KERNELS = {each.__name__: each for each in (whole_row, online, backward_keys, backward_queries)}
SHARED_BYTES = {
    "sm_80": 166_912, "sm_86": 101_376, "sm_87": 166_912, "sm_89": 101_376, "sm_90": 232_448, "sm_120": 101_376,
}  # fmt: skip
"""Shared memory that one program may have (CUDA C++ Programming Guide, table of compute capabilities)."""
PTX_VERSIONS = {"sm_120": 87}
OLDEST_PTX_VERSION = 80
"""PTX is written in the oldest version that knows the target, 8.0 being CUDA 12.0's, so that older drivers take it."""
DTYPES = {"float16": "fp16", "bfloat16": "bf16"}
POINTERS = {"lse": "*fp32", "table": "*i32"}
"""Arguments that point at something else than the inputs' type."""
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_OPERATION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", re.MULTILINE)


@dataclass(frozen=True)
class Binary:
    """One kernel, compiled."""

    kernel: str
    target: str
    symbol: str
    """Its name in the cubin."""
    cubin: bytes
    ptx: str
    threads: int
    shared: int
    """Bytes of shared memory that a launch asks for."""
    registers: int
    spilled: int
    """Bytes that a thread keeps in memory for want of registers."""
    operations: dict[str, int]
    """How many of each machine instruction there are."""

    @property
    def capability(self) -> int:
        """Of the target, times ten."""
        return capability_of(self.target)

    def summary(self) -> dict[str, object]:
        """Everything but the code."""
        names = ("kernel", "target", "symbol", "threads", "shared", "registers", "spilled", "operations")
        return {name: getattr(self, name) for name in names}


def compile_plan(plan: Plan, target: str, dtype: str = "bfloat16") -> Binary:
    """Compile one of `KERNELS` for `target` (sm_87), which need not be here.

    Raises ValueError for a target that it is not made for, and if the code needs more shared memory than the GPU has.
    """
    function = KERNELS[plan.kernel]
    from_table = {"LAYOUT": None} if "LAYOUT" in function.arg_names else {}
    return _compiled(function, target, {**plan.settings, **from_table}, DTYPES[dtype])


def compile_layer(shape: Layer, target: str, dtype: str = "bfloat16") -> Binary:
    """Compile `headwise_forward.layer`; as `compile_plan`. Its arguments: the tensors that the layer has, in order."""
    return _compiled(layer, target, shape.settings(capability_of(target)), DTYPES[dtype])


def _compiled(function: Any, target: str, settings: Mapping[str, Constant], dtype: str) -> Binary:
    constants = {name: value for name, value in settings.items() if name in function.arg_names}
    types = {name: _type_of(name, constants, dtype) for name in function.arg_names}
    places = {name: (place,) for place, name in enumerate(function.arg_names)}
    source = ASTSource(
        function,
        types,
        constexprs={places[name]: value for name, value in constants.items()},
        attrs={places[name]: [["tt.divisibility", 16]] for name, type_ in types.items() if type_.startswith("*")},
    )
    options = {name: value for name, value in settings.items() if name not in constants}
    options["ptx_version"] = PTX_VERSIONS.get(target, OLDEST_PTX_VERSION)
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True  # paths on this machine are nothing to ship
        made = triton.compile(source, target=GPUTarget("cuda", capability_of(target), 32), options=options)
    name = made.metadata.name
    if made.metadata.shared > SHARED_BYTES[target]:
        raise ValueError(
            f"{name} needs {made.metadata.shared} bytes of shared memory, {target} has {SHARED_BYTES[target]}"
        )
    assert made.metadata.global_scratch_size == 0, "a launch without Triton has none to give"
    return _disassembled(name, target, made)


def _type_of(name: str, constants: Mapping[str, Constant], dtype: str) -> str:
    """An argument's type in Triton's words."""
    if name in constants:
        return "constexpr"
    if name in POINTERS:
        return POINTERS[name]
    if name.startswith("scale"):
        return "fp32"
    if name in ("packed", "queries", "q", "k", "v", "out", "bias", "grad_out", "grad_q", "grad_k", "grad_v"):
        return f"*{dtype}"
    return "i32"


def _disassembled(kernel: str, target: str, made: triton.compiler.CompiledKernel) -> Binary:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(made.asm["cubin"])
        code = _said(_TOOLS / "nvdisasm", "-c", file)
        usage = _said(_TOOLS / "cuobjdump", "-res-usage", file)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return Binary(
        kernel=kernel,
        target=target,
        symbol=made.metadata.name,
        cubin=made.asm["cubin"],
        ptx=made.asm["ptx"],
        threads=32 * made.metadata.num_warps,
        shared=made.metadata.shared,
        registers=int(found[1]),
        spilled=int(found[2]),
        operations=dict(Counter(_OPERATION.findall(code))),
    )


def _said(tool: Path, *arguments: str | Path) -> str:
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def capability_of(target: str) -> int:
    """sm_87 -> 87; ValueError for a GPU that the kernels are not made for."""
    if target not in SHARED_BYTES:
        raise ValueError(f"{target} is not one of {', '.join(SHARED_BYTES)}")
    return int(target.removeprefix("sm_"))
