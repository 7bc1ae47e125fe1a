"""Cross-compile one layer's attention to machine code that a program without Triton can launch.

    python -m toolkit.kernels.ahead_of_time --gpu sm_87 --tokens 197 --heads 64x64,40x24 --scale 0.125 --out cubins

writes NAME.cubin, NAME.ptx, and NAME.c and NAME.h, which embed the cubin and launch it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from toolkit.kernels.c_source import header_and_source
from toolkit.kernels.heads import Heads
from toolkit.kernels.layer_spec import LayerSpec
from toolkit.kernels.machine_code import DTYPES, SHARED_BYTES, compile_layer


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad arguments end it with exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.kernels.ahead_of_time", description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", required=True, choices=tuple(SHARED_BYTES))
    parser.add_argument("--target", action=_Renamed, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", required=True, type=_count, help="tokens per image, including the class token")
    parser.add_argument("--heads", required=True, type=_heads, help="qk_dim x v_dim of each head: 64x64,40x24")
    parser.add_argument("--scale", required=True, type=float, help="the source model's head_dim ** -0.5")
    parser.add_argument("--queries", type=_count, help="number of queries, if they are a separate tensor")
    parser.add_argument("--bias", action="store_true", help="add a bias per head to the logits (BEiT)")
    parser.add_argument("--key-bias", action="store_true", help="add a bias per image and key (merged tokens, padding)")
    parser.add_argument("--dtype", default="bfloat16", choices=tuple(DTYPES))
    parser.add_argument(
        "--name", type=_name, default="headwise_attention", help="name of the C function and of the files"
    )
    parser.add_argument("--out", type=Path, help="output folder; without it, nothing is written")
    parser.add_argument("--json", action="store_true", help="print registers, spills and instruction counts")
    options = parser.parse_args(arguments)
    try:
        bias_heads = len(options.heads) if options.bias else 0
        layer = LayerSpec(options.heads, options.scale, options.tokens, options.queries, bias_heads, options.key_bias)
    except ValueError as error:
        parser.error(str(error))
    binary = compile_layer(layer, options.gpu, options.dtype)
    if options.out:
        header, source = header_and_source(options.name, layer, binary, options.dtype)
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{options.name}.cubin").write_bytes(binary.cubin)
        for ending, text in (("ptx", binary.ptx), ("h", header), ("c", source)):
            (options.out / f"{options.name}.{ending}").write_text(text)
    if options.json:
        print(json.dumps(binary.summary()))
        return
    print(
        f"{options.name} for {binary.gpu}: {binary.registers} registers, {binary.spilled} bytes spilled, "
        f"{binary.shared} bytes of shared memory, {binary.threads} threads"
    )


class _Renamed(argparse.Action):
    """A flag under its former name."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> None:
        parser.error("--target is now called --gpu")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a C identifier")
    return text


def _heads(text: str) -> Heads:
    """64x64,40x24 -> (64, 64), (40, 24)"""
    try:
        return tuple((int(qk), int(v)) for qk, v in (head.split("x") for head in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected widths such as 64x64,40x24, got {text!r}") from None


if __name__ == "__main__":
    main()
