"""Attention of one layer as machine code, for a GPU that need not be here and a program that has no Triton.

    python -m toolkit.kernels.ahead_of_time --target sm_87 --tokens 197 --heads 64x64,40x24 --scale 0.125 --out cubins

writes NAME.cubin and NAME.ptx, and NAME.c and NAME.h, which launch it and hold the cubin themselves.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from toolkit.kernels.headwise_attention import Heads
from toolkit.kernels.headwise_layer import Layer
from toolkit.kernels.launcher import header_and_source
from toolkit.kernels.machine_code import DTYPES, SHARED_BYTES, compile_layer


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the module."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.kernels.ahead_of_time", description=__doc__.split("\n")[0])
    parser.add_argument("--target", required=True, choices=tuple(SHARED_BYTES))
    parser.add_argument("--tokens", required=True, type=_count, help="of an image, the class token included")
    parser.add_argument("--heads", required=True, type=_heads, help="widths of queries and values: 64x64,40x24")
    parser.add_argument("--scale", required=True, type=float, help="the source model's head_dim ** -0.5")
    parser.add_argument("--queries", type=_count, help="so many of a tensor of their own; else all tokens ask")
    parser.add_argument("--bias", action="store_true", help="one for each head, added to the logits (BEiT)")
    parser.add_argument("--dtype", default="bfloat16", choices=tuple(DTYPES))
    parser.add_argument(
        "--name", type=_name, default="headwise_attention", help="of the function in C and of the files"
    )
    parser.add_argument("--out", type=Path, help="folder for the files; without it nothing is written")
    parser.add_argument("--json", action="store_true", help="print everything that is known of the code")
    given = parser.parse_args(arguments)
    try:
        layer = Layer(given.heads, given.scale, given.tokens, given.queries, len(given.heads) if given.bias else 0)
    except ValueError as error:
        parser.error(str(error))
    made = compile_layer(layer, given.target, given.dtype)
    if given.out:
        header, source = header_and_source(given.name, layer, made, given.dtype)
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / f"{given.name}.cubin").write_bytes(made.cubin)
        for ending, text in (("ptx", made.ptx), ("h", header), ("c", source)):
            (given.out / f"{given.name}.{ending}").write_text(text)
    if given.json:
        print(json.dumps(made.summary()))
        return
    print(
        f"{given.name} for {made.target}: {made.registers} registers, {made.spilled} bytes spilled, "
        f"{made.shared} bytes of shared memory, {made.threads} threads"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text} is no name in C")
    return text


def _heads(text: str) -> Heads:
    """64x64,40x24 -> (64, 64), (40, 24)"""
    try:
        return tuple((int(qk), int(v)) for qk, v in (head.split("x") for head in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not like 64x64,40x24") from None


if __name__ == "__main__":
    main()
