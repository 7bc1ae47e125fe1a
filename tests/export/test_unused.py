"""Settings without effect are reported, others are not."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit import recipe
from toolkit.export.unused import unused_settings

ENGINES: dict[str, Any] = {
    "gpus": "sm_86",
    "builder_level": 1,
    "workspace_mib": 5,
    "version_compatible": True,
    "hardware_compatible": True,
    "timing_cache": "x",
}


@pytest.mark.parametrize("name", ENGINES)
def test_engine_settings_have_no_effect_on_other_targets(name: str) -> None:
    setting: dict[str, Any] = {"tensorrt": {name: ENGINES[name]}}
    for targets in (("onnx",), ("onnx", "torch")):
        (message,) = unused_settings(recipe.Export(targets=targets, **setting))
        assert message == f"export.tensorrt.{name}={ENGINES[name]} has no effect: not used for {', '.join(targets)}"
    assert unused_settings(recipe.Export(targets=("onnx", "rtx"), **setting)) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"torch": {"compile": False}}, "export.torch.compile=False has no effect: not used for onnx"),
        (
            {"targets": ("torch",), "onnx": {"opset": 18}, "rtx": {"opset": 18}},
            "export.onnx.opset and export.rtx.opset=18 has no effect: not used for torch",
        ),
        ({"calibration_images": 5}, "export.calibration_images=5 has no effect: fp32 needs no calibration"),
        (
            {"calibration_domains": ("a", "b")},
            "export.calibration_domains=a,b has no effect: fp32 needs no calibration",
        ),
        (
            {"precision": "fp16", "quantize_attention": True},
            "export.quantize_attention=True has no effect: it applies to int8, not to fp16",
        ),
        ({"targets": ("torch",), "torch": {"compile": False}}, ""),
        ({"onnx": {"opset": 18}, "precision": "int8", "quantize_attention": True, "calibration_images": 5}, ""),
        ({}, ""),
    ],
)
def test_settings_without_effect_are_reported(settings: dict[str, Any], message: str) -> None:
    assert unused_settings(recipe.Export(**settings)) == [message] * bool(message)
