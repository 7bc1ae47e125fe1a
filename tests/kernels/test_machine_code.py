"""Cross-compiled machine code of every kernel at its default block sizes: no spills, wide loads, tensor cores.

Compiled in a subprocess: in this one Triton interprets its kernels.
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
from toolkit.kernels.layer_spec import LayerSpec
from toolkit.kernels.headwise_settings import Workload, heuristic_config
from toolkit.kernels.machine_code import capability_of, compile_layer, compile_config

seen = []

def of_training(gpu, tokens, heads, has_key_bias=False):
    for kind in ("forward", "backward_keys", "backward_queries"):
        config = heuristic_config(Workload(kind, tokens, heads, True, has_key_bias, with_lse=True), capability_of(gpu))
        if config not in seen:  # most do not depend on the number of tokens
            seen.append(config)
            yield config.kernel, compile_config(config, gpu)

def of_merged_tokens(gpu, tokens, heads):
    yield from of_training(gpu, tokens, heads, has_key_bias=True)
    config = heuristic_config(Workload("forward", tokens, heads, has_key_bias=True), capability_of(gpu))
    yield config.kernel, compile_config(config, gpu)

def of_inference(gpu, tokens, heads):
    config = heuristic_config(Workload("forward", tokens, heads), capability_of(gpu))
    yield config.kernel, compile_config(config, gpu)
    biased = LayerSpec(heads, 0.125, tokens, bias_heads=1, has_key_bias=True)
    yield biased.config(capability_of(gpu)).kernel, compile_layer(biased, gpu)

KINDS = {"training": of_training, "inference": of_inference, "merged tokens": of_merged_tokens}
gpu, sizes, kinds = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
print(json.dumps([
    made.summary() | {"algorithm": name, "width": width}
    for tokens, width in sizes
    for kind in kinds
    for name, made in KINDS[kind](gpu, tokens, ((width, width),))
]))
"""


@pytest.fixture(scope="module")
def compiled(untraced: dict[str, str]) -> Compiled:
    """`compiled(gpu, sizes, kinds)`: summaries of the kernels of a one-head layer for each (tokens, width)."""

    def summaries(gpu: str, sizes: list[tuple[int, int]], kinds: tuple[str, ...]) -> list[dict[str, Any]]:
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, gpu, json.dumps(sizes), json.dumps(kinds)],
            capture_output=True,
            text=True,
            env={**untraced, "TRITON_INTERPRET": "0"},
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        answer: list[dict[str, Any]] = json.loads(ended.stdout)
        return answer

    return summaries


def check(kernel: Mapping[str, Any]) -> None:
    """No spills, no element-wise loads or stores, tensor-core products. `compile_config` checks shared memory."""
    operations = kernel["operations"]
    assert kernel["spilled"] == 0, kernel
    assert not [name for name in operations if name.startswith(("LDG.E.U16", "STG.E.U16"))], kernel
    assert any(name.startswith("LDG.E.128") for name in operations), kernel
    if kernel["width"] >= 64:  # narrower tiles give a thread less than 16 bytes
        assert any(name.startswith("STG.E.128") for name in operations), kernel
    products = "HGMMA" if kernel["gpu"] == "sm_90" and kernel["algorithm"] == "whole_row" else "H"
    assert any(name.startswith(products) and "MMA" in name for name in operations), kernel


SIZES = [(197, 64), (577, 16), (197, 128)]
MORE_SIZES = [(197, 32), (197, 16), (257, 16), (577, 64)]
"""Together with `SIZES`: every tile width."""


@pytest.mark.parametrize(
    ("gpu", "sizes"),
    [
        ("sm_80", SIZES),
        ("sm_90", SIZES),
        pytest.param("sm_80", MORE_SIZES, marks=pytest.mark.slow),
        pytest.param("sm_90", MORE_SIZES, marks=pytest.mark.slow),
        pytest.param("sm_87", [*SIZES, *MORE_SIZES], marks=pytest.mark.slow),
    ],
)
def test_no_spills_and_no_elementwise_loads(compiled: Compiled, gpu: str, sizes: list[tuple[int, int]]) -> None:
    """Training with a bias and with both, inference with none or a key_bias, and a single layer with both."""
    kernels = compiled(gpu, sizes, ("training", "merged tokens", "inference"))
    assert {each["algorithm"] for each in kernels} == {"whole_row", "online", "backward_keys", "backward_queries"}
    for kernel in kernels:
        check(kernel)


@pytest.mark.each_choice
@pytest.mark.parametrize("tokens", [197, 577])
@pytest.mark.parametrize("gpu", ["sm_86", "sm_89", "sm_120"])
def test_inference_on_other_gpus(compiled: Compiled, gpu: str, tokens: int) -> None:
    for kernel in compiled(gpu, [(tokens, 64)], ("inference",)):
        check(kernel)
