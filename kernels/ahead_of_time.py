"""Machine code of the kernels for a GPU that is not there, and what the compiler made of them.

    python -m toolkit.kernels.ahead_of_time --target sm_87 --tokens 197 --heads 64x64,40x24 --out cubins

prints a line for each kernel and writes a cubin, and the PTX, of each: for devices that have no Triton.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from toolkit.kernels import headwise_triton
from toolkit.kernels.headwise_attention import Heads
from toolkit.kernels.headwise_launch import forward_kernel, settings_of

SHARED_BYTES = {
    "sm_80": 166_912, "sm_86": 101_376, "sm_87": 166_912, "sm_89": 101_376, "sm_90": 232_448, "sm_120": 101_376,
}  # fmt: skip
"""Shared memory that one program may have (CUDA C++ Programming Guide, table of compute capabilities)."""
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

    def summary(self) -> dict[str, object]:
        """Everything but the code."""
        names = ("kernel", "target", "symbol", "threads", "shared", "registers", "spilled", "operations")
        return {name: getattr(self, name) for name in names}


def compile_kernel(
    kernel: str, target: str, tokens: int, heads: Heads, dtype: str = "bfloat16", *, has_bias: bool = False,
    with_lse: bool = False,
) -> Binary:  # fmt: skip
    """Compile a kernel of `headwise_triton` for `target` (sm_87), which need not be here.

    Raises ValueError for a target that it is not made for, and if the code needs more shared memory than the GPU has.
    """
    if target not in SHARED_BYTES:
        raise ValueError(f"{target} is not one of {', '.join(SHARED_BYTES)}")
    function, capability = getattr(headwise_triton, kernel), _capability(target)
    settings = settings_of(kernel, tokens, heads, capability, has_bias=has_bias, with_lse=with_lse)
    constants = {name: settings.pop(name) for name in list(settings) if name in function.arg_names}
    source = ASTSource(
        function,
        {name: _type_of(name, constants, DTYPES[dtype]) for name in function.arg_names},
        constexprs={(function.arg_names.index(name),): value for name, value in constants.items()},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(function.arg_names)
            if _type_of(name, constants, DTYPES[dtype]).startswith("*")
        },
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=settings)
    if made.metadata.shared > SHARED_BYTES[target]:
        raise ValueError(
            f"{kernel} needs {made.metadata.shared} bytes of shared memory, {target} has {SHARED_BYTES[target]}"
        )
    return _disassembled(kernel, target, made)


def _type_of(name: str, constants: dict[str, int], dtype: str) -> str:
    """An argument's type in Triton's words."""
    if name in constants:
        return "constexpr"
    if name in POINTERS:
        return POINTERS[name]
    if name.startswith("scale"):
        return "fp32"
    if name in ("q", "k", "v", "out", "bias", "grad_out", "grad_q", "grad_k", "grad_v"):
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


def _capability(target: str) -> int:
    """sm_87 -> 87"""
    return int(target.removeprefix("sm_"))


def kernels_for(target: str, tokens: int, heads: Heads, *, has_bias: bool, training: bool) -> tuple[str, ...]:
    """Names of those that a layer needs."""
    forward = forward_kernel(tokens, heads, _capability(target), has_bias=has_bias)
    return (forward, *(("backward_keys", "backward_queries") if training else ()))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the module."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.kernels.ahead_of_time", description=__doc__.split("\n")[0])
    parser.add_argument("--target", required=True, choices=tuple(SHARED_BYTES))
    parser.add_argument("--tokens", required=True, type=_tokens, help="of an image, the class token included")
    parser.add_argument("--heads", required=True, type=_heads, help="widths of queries and values: 64x64,40x24")
    parser.add_argument("--dtype", default="bfloat16", choices=tuple(DTYPES))
    parser.add_argument("--bias", action="store_true", help="added to the logits (BEiT)")
    parser.add_argument("--training", action="store_true", help="with the kernels of the backward pass")
    parser.add_argument("--out", type=Path, help="folder for NAME.cubin and NAME.ptx")
    parser.add_argument("--json", action="store_true", help="print everything that is known of them")
    given = parser.parse_args(arguments)
    made = [
        compile_kernel(kernel, given.target, given.tokens, given.heads, given.dtype, has_bias=given.bias,
                       with_lse=given.training and not kernel.startswith("backward"))
        for kernel in kernels_for(
            given.target, given.tokens, given.heads, has_bias=given.bias, training=given.training
        )
    ]  # fmt: skip
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        for each in made:
            (given.out / f"{each.kernel}.cubin").write_bytes(each.cubin)
            (given.out / f"{each.kernel}.ptx").write_text(each.ptx)
    if given.json:
        print(json.dumps([each.summary() for each in made]))
        return
    for each in made:
        print(
            f"{each.kernel} for {each.target}: {each.registers} registers, {each.spilled} bytes spilled, "
            f"{each.shared} bytes of shared memory, {each.threads} threads"
        )


def _tokens(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return int(text)


def _heads(text: str) -> Heads:
    """64x64,40x24 -> (64, 64), (40, 24)"""
    try:
        found = tuple((int(qk), int(v)) for qk, v in (head.split("x") for head in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not like 64x64,40x24") from None
    if any(width < 1 or width % headwise_triton.GROUP.value for head in found for width in head):
        raise argparse.ArgumentTypeError(f"widths are multiples of {headwise_triton.GROUP.value}")
    return found


if __name__ == "__main__":
    main()
