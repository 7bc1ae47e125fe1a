"""Settings that a target does not support are refused, with a reason and a hint."""

from __future__ import annotations

from dataclasses import replace

import pytest

from toolkit import recipe
from toolkit.errors import RecipeError
from toolkit.export.capabilities import Capabilities
from toolkit.export.settings import ResolvedSettings, resolve_settings

CAPABILITIES = Capabilities(
    precisions=("fp32", "bf16"),
    opsets=(17, 20),
    opset=18,
    attention=("standard", "decomposed"),
    applied_at_load=("bf16",),
    fused_heads=(8, 16),
    unsupported={"int8": "no integer kernels", "custom": "no graph functions"},
)


def test_defaults_are_the_targets() -> None:
    assert resolve_settings("onnx", CAPABILITIES, recipe.Export()) == ResolvedSettings(
        18, "decomposed", "fp32", False, "fp32", None, True, False, 1, False
    )
    assert resolve_settings("onnx", CAPABILITIES, recipe.Export(precision="bf16")).precision == "fp32"


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            {"precision": "int8"},
            "onnx does not support int8: no integer kernels",
            "supported: fp32, bf16 (--precision)",
        ),
        (
            {"precision": "fp16"},
            "onnx does not support fp16: not available for this target",
            "supported: fp32, bf16 (--precision)",
        ),
        ({"attention": "custom"}, "onnx does not support custom attention: no graph functions", "(--attention)"),
        ({"attention": "standard"}, "opset 18 has no Attention node", "--opset 23, or --attention decomposed"),
    ],
    ids=str,
)
def test_unsupported_settings_are_refused(options: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve_settings("onnx", CAPABILITIES, recipe.Export.model_validate(options))
    assert caught.value.message == message
    assert hint in caught.value.hint


def test_an_unsupported_opset_is_refused() -> None:
    with pytest.raises(RecipeError, match="onnx supports opsets 17-20, not 23\nchoose another --opset"):
        resolve_settings("onnx", replace(CAPABILITIES, opset=23), recipe.Export())
