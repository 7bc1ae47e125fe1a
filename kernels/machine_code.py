"""Cross-compilation: machine code of the kernels for any supported GPU, with register and instruction counts.

`compile_config` compiles a kernel as `headwise_launch` launches it, `compile_layer` one layer for programs without
Triton.
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
from toolkit.kernels.headwise_settings import KernelConfig
from toolkit.kernels.layer_spec import Constant, LayerSpec

KERNELS = {each.__name__: each for each in (whole_row, online, backward_keys, backward_queries)}
SHARED_BYTES = {
    "sm_80": 166_912, "sm_86": 101_376, "sm_87": 166_912, "sm_89": 101_376, "sm_90": 232_448, "sm_120": 101_376,
}  # fmt: skip
"""Maximum shared memory per block, by GPU (CUDA C++ Programming Guide, table of compute capabilities)."""
PTX_VERSIONS = {"sm_120": 87}
MIN_PTX_VERSION = 80
"""PTX is emitted in the oldest version that supports the GPU, 8.0 (CUDA 12.0) at least, so that old drivers load it."""
DTYPES = {"float16": "fp16", "bfloat16": "bf16"}
POINTERS = {"lse": "*fp32", "key_bias": "*fp32", "table": "*i32"}
"""Triton types of the pointer arguments that do not point to the input dtype."""
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_OPERATION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", re.MULTILINE)


@dataclass(frozen=True)
class Binary:
    """A compiled kernel."""

    kernel: str
    gpu: str
    """sm_87"""
    symbol: str
    """The kernel's name in the cubin."""
    cubin: bytes
    ptx: str
    threads: int
    shared: int
    """Dynamic shared memory per block, in bytes."""
    registers: int
    """Registers per thread."""
    spilled: int
    """Register spills per thread, in bytes."""
    operations: dict[str, int]
    """Number of each machine instruction in the code."""

    @property
    def capability(self) -> int:
        """Compute capability, times ten."""
        return capability_of(self.gpu)

    def summary(self) -> dict[str, object]:
        """All fields except the code."""
        names = ("kernel", "gpu", "symbol", "threads", "shared", "registers", "spilled", "operations")
        return {name: getattr(self, name) for name in names}


def compile_config(config: KernelConfig, gpu: str, dtype: str = "bfloat16") -> Binary:
    """Compile one of `KERNELS` for `gpu` (sm_87), which need not be installed.

    Raises ValueError for a GPU that is not in `SHARED_BYTES`, and for code that needs more shared memory than it has.
    """
    function = KERNELS[config.kernel]
    table = {"LAYOUT": None} if "LAYOUT" in function.arg_names else {}
    return _compile(function, gpu, {**config.settings, **table}, DTYPES[dtype])


def compile_layer(spec: LayerSpec, gpu: str, dtype: str = "bfloat16") -> Binary:
    """Compile `headwise_forward.layer` for `gpu`; the kernel's arguments are `spec.tensors()`.

    Raises ValueError as `compile_config` does.
    """
    return _compile(layer, gpu, spec.settings(capability_of(gpu)), DTYPES[dtype])


def _compile(function: Any, gpu: str, settings: Mapping[str, Constant], dtype: str) -> Binary:
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
    options["ptx_version"] = PTX_VERSIONS.get(gpu, MIN_PTX_VERSION)
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True  # no paths of this machine in the code
        compiled = triton.compile(source, target=GPUTarget("cuda", capability_of(gpu), 32), options=options)
    metadata = compiled.metadata
    if metadata.shared > SHARED_BYTES[gpu]:
        raise ValueError(
            f"{metadata.name} needs {metadata.shared} bytes of shared memory, {gpu} has {SHARED_BYTES[gpu]}"
        )
    assert metadata.global_scratch_size == 0, "launching without Triton provides no scratch memory"
    return _disassemble(gpu, compiled)


def _type_of(name: str, constants: Mapping[str, Constant], dtype: str) -> str:
    """Triton's type of an argument."""
    if name in constants:
        return "constexpr"
    if name in POINTERS:
        return POINTERS[name]
    if name.startswith("scale"):
        return "fp32"
    if name in ("packed", "queries", "q", "k", "v", "out", "bias", "grad_out", "grad_q", "grad_k", "grad_v"):
        return f"*{dtype}"
    return "i32"


def _disassemble(gpu: str, compiled: triton.compiler.CompiledKernel) -> Binary:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        code = _output_of(_TOOLS / "nvdisasm", "-c", file)
        usage = _output_of(_TOOLS / "cuobjdump", "-res-usage", file)
    registers = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert registers, usage
    return Binary(
        kernel=compiled.metadata.name,
        gpu=gpu,
        symbol=compiled.metadata.name,
        cubin=compiled.asm["cubin"],
        ptx=compiled.asm["ptx"],
        threads=32 * compiled.metadata.num_warps,
        shared=compiled.metadata.shared,
        registers=int(registers[1]),
        spilled=int(registers[2]),
        operations=dict(Counter(_OPERATION.findall(code))),
    )


def _output_of(tool: Path, *arguments: str | Path) -> str:
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def capability_of(gpu: str) -> int:
    """sm_87 -> 87; ValueError for a GPU that the kernels do not support."""
    if gpu not in SHARED_BYTES:
        raise ValueError(f"{gpu} is not one of {', '.join(SHARED_BYTES)}")
    return int(gpu.removeprefix("sm_"))
