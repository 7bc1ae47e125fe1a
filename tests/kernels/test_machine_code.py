"""Machine code for GPUs that are not there: what the compiler made of every kernel at the sizes that are shipped.

In a process of its own: here Triton interprets its kernels.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

Compiled = Callable[[str, list[tuple[int, int]], tuple[str, ...]], list[dict[str, Any]]]
PROGRAM = """
import json, sys
from toolkit.kernels.headwise_layer import Layer
from toolkit.kernels.headwise_settings import Work, by_rule
from toolkit.kernels.machine_code import capability_of, compile_layer, compile_plan

seen = []

def of_training(target, tokens, heads):
    for kind in ("forward", "backward_keys", "backward_queries"):
        plan = by_rule(Work(kind, tokens, heads, has_bias=True, with_lse=True), capability_of(target))
        if plan not in seen:  # most do not depend on the number of tokens
            seen.append(plan)
            yield plan.kernel, compile_plan(plan, target)

def of_inference(target, tokens, heads):
    plan = by_rule(Work("forward", tokens, heads), capability_of(target))
    yield plan.kernel, compile_plan(plan, target)
    biased = Layer(heads, 0.125, tokens, bias_heads=1)
    yield biased.plan(capability_of(target)).kernel, compile_layer(biased, target)

target, sizes, kinds = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
print(json.dumps([
    made.summary() | {"computes_as": name, "width": width}
    for tokens, width in sizes
    for kind in kinds
    for name, made in {"training": of_training, "inference": of_inference}[kind](target, tokens, ((width, width),))
]))
"""


@pytest.fixture(scope="module")
def compiled(untraced: dict[str, str]) -> Compiled:
    """`compiled(target, sizes, kinds)`: summaries of what a layer of one head needs, for each (tokens, width)."""

    def summaries(target: str, sizes: list[tuple[int, int]], kinds: tuple[str, ...]) -> list[dict[str, Any]]:
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, target, json.dumps(sizes), json.dumps(kinds)],
            capture_output=True,
            text=True,
            env={**untraced, "TRITON_INTERPRET": "0"},
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        found: list[dict[str, Any]] = json.loads(ended.stdout)
        return found

    return summaries


def check(kernel: Mapping[str, Any]) -> None:
    """Nothing spills, nothing moves unit by unit, products are the tensor cores'. Shared memory: `compile_plan`."""
    operations = kernel["operations"]
    assert kernel["spilled"] == 0, kernel
    assert not [name for name in operations if name.startswith(("LDG.E.U16", "STG.E.U16"))], kernel
    assert any(name.startswith("LDG.E.128") for name in operations), kernel
    if kernel["width"] >= 64:  # a thread has less than 16 bytes of a tile of narrow heads
        assert any(name.startswith("STG.E.128") for name in operations), kernel
    products = "HGMMA" if kernel["target"] == "sm_90" and kernel["computes_as"] == "whole_row" else "H"
    assert any(name.startswith(products) and "MMA" in name for name in operations), kernel


SIZES = [(197, 64), (577, 16)]
MORE_SIZES = [(197, 32), (197, 16), (197, 128), (257, 16), (577, 64)]
"""With `SIZES`, every width there is a tile for."""


@pytest.mark.parametrize(
    ("target", "sizes"),
    [
        ("sm_80", SIZES),
        ("sm_90", SIZES),
        pytest.param("sm_80", MORE_SIZES, marks=pytest.mark.slow),
        pytest.param("sm_90", MORE_SIZES, marks=pytest.mark.slow),
        pytest.param("sm_87", [*SIZES, *MORE_SIZES], marks=pytest.mark.slow),
    ],
)
def test_nothing_spills_and_nothing_moves_unit_by_unit(
    compiled: Compiled, target: str, sizes: list[tuple[int, int]]
) -> None:
    """In training with a bias, without one, and as a layer of its own with one."""
    found = compiled(target, sizes, ("training", "inference"))
    assert {each["computes_as"] for each in found} == {"whole_row", "online", "backward_keys", "backward_queries"}
    for kernel in found:
        check(kernel)


@pytest.mark.each_choice
@pytest.mark.parametrize("tokens", [197, 577])
@pytest.mark.parametrize("target", ["sm_86", "sm_89", "sm_120"])
def test_inference_on_other_gpus(compiled: Compiled, target: str, tokens: int) -> None:
    for kernel in compiled(target, [(tokens, 64)], ("inference",)):
        check(kernel)
