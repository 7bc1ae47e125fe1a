"""Machine code for GPUs that are not there: what the compiler made of every kernel at the sizes that are shipped.

In a process of its own: here Triton interprets its kernels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = ("sm_80", "sm_87", "sm_90")
VARIANTS = [
    {"tokens": tokens, "heads": ((width, width),), "has_bias": training, "training": training}
    for tokens, width in ((197, 64), (197, 32), (197, 16), (197, 128), (577, 64))
    for training in (False, True)
]
"""Training takes what inference does, and a bias takes most registers."""
PROGRAM = """
import json, sys
from toolkit.kernels.ahead_of_time import compile_kernel, kernels_for
target, variants = sys.argv[1], json.loads(sys.argv[2])
print(json.dumps([
    compile_kernel(
        kernel, target, given["tokens"], given["heads"], has_bias=given["has_bias"],
        with_lse=given["training"] and not kernel.startswith("backward"),
    ).summary() | {"variant": given}
    for given in variants
    for kernel in kernels_for(target, **given)
]))
"""


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        timeout=600,
        check=False,
    )


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    return ran("-m", "toolkit.kernels.ahead_of_time", *arguments)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_spills_and_nothing_moves_unit_by_unit(target: str) -> None:
    ended = ran("-c", PROGRAM, target, json.dumps(VARIANTS))
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert {kernel["kernel"] for kernel in found} == {"whole_row", "online", "backward_keys", "backward_queries"}
    for kernel in found:
        operations = kernel["operations"]
        assert kernel["spilled"] == 0, kernel
        assert not [name for name in operations if name.startswith(("LDG.E.U16", "STG.E.U16"))], kernel
        assert any(name.startswith("LDG.E.128") for name in operations), kernel
        if kernel["variant"]["heads"][0][0] >= 64:  # a thread has less than 16 bytes of a tile of narrow heads
            assert any(name.startswith("STG.E.128") for name in operations), kernel
        products = "HGMMA" if target == "sm_90" and kernel["kernel"] == "whole_row" else "H"
        assert any(name.startswith(products) and "MMA" in name for name in operations), kernel


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
