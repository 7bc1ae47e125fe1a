"""Machine code for GPUs that are not there: what the compiler made of every kernel at the sizes that are shipped.

In a process of its own: here Triton interprets its kernels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TARGETS = ("sm_80", "sm_87", "sm_90")
HEADS = ("64x64", "64x64,40x24", "32x32", "16x16", "128x128")


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "toolkit.kernels.ahead_of_time", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        timeout=300,
        check=False,
    )


@cache
def compiled(*arguments: str) -> list[dict[str, Any]]:
    ended = called(*arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("tokens", ["197", "577"])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("more", [(), ("--bias", "--training")], ids=["inference", "training with bias"])
def test_nothing_spills_and_nothing_moves_unit_by_unit(
    target: str, tokens: str, heads: str, more: tuple[str, ...]
) -> None:
    if heads not in ("64x64", "16x16") and tokens == "577":
        pytest.skip("tried at 197 tokens")
    for kernel in compiled("--target", target, "--tokens", tokens, "--heads", heads, *more):
        assert kernel["spilled"] == 0, kernel
        narrow = [name for name in kernel["operations"] if name.startswith(("LDG.E.U16", "STG.E.U16"))]
        assert not narrow, kernel
        assert any(name.startswith("LDG.E.128") for name in kernel["operations"]), kernel
        if heads.startswith(("64", "128")):  # a thread has less than 16 bytes of a tile of narrow heads
            assert any(name.startswith("STG.E.128") for name in kernel["operations"]), kernel
        products = [name for name in kernel["operations"] if name.startswith(("HMMA", "HGMMA"))]
        assert products, "on tensor cores"


def test_hopper_multiplies_out_of_shared_memory() -> None:
    (kernel,) = compiled("--target", "sm_90", "--tokens", "197", "--heads", "64x64")
    assert kernel["kernel"] == "whole_row"
    assert any(name.startswith("HGMMA") for name in kernel["operations"])


def test_the_command_writes_code_and_says_what_it_is(tmp_path: Path) -> None:
    ended = called("--target", "sm_87", "--tokens", "197", "--heads", "64x64,40x24", "--out", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("whole_row for sm_87: ")
    assert (tmp_path / "whole_row.cubin").read_bytes().startswith(b"\x7fELF")
    assert ".target sm_87" in (tmp_path / "whole_row.ptx").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "sm_70", "--tokens", "197", "--heads", "64x64"), "invalid choice: 'sm_70'"),
        (("--target", "sm_80", "--tokens", "197", "--heads", "64"), "64 is not like 64x64,40x24"),
        (("--target", "sm_80", "--tokens", "197", "--heads", "60x64"), "widths are multiples of 8"),
        (("--target", "sm_80", "--tokens", "0", "--heads", "64x64"), "at least 1"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: tuple[str, ...], message: str) -> None:
    ended = called(*arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
