"""Settings that change nothing are said, and those that change something are not."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit import recipe
from toolkit.export.idle import idle

ENGINES: dict[str, Any] = {
    "gpus": "sm_86",
    "builder_level": 1,
    "workspace_mib": 5,
    "version_compatible": True,
    "hardware_compatible": True,
    "timing_cache": "x",
}


@pytest.mark.parametrize("name", ENGINES)
def test_settings_of_engines_are_idle_for_files_of_other_targets(name: str) -> None:
    given = {name: ENGINES[name]}
    for targets in (("onnx",), ("onnx", "torch")):
        (said,) = idle(recipe.Export(targets=targets, **given))
        assert said == f"export.{name}={ENGINES[name]} changes nothing: it is not for {', '.join(targets)}"
    assert idle(recipe.Export(targets=("onnx", "rtx"), **given)) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"compile": False}, "export.compile=False changes nothing: it is not for onnx"),
        ({"targets": ("torch",), "opset": 18}, "export.opset=18 changes nothing: it is not for torch"),
        ({"calibration_images": 5}, "export.calibration_images=5 changes nothing: fp32 needs none"),
        ({"calibration_domains": ("a", "b")}, "export.calibration_domains=a,b changes nothing: fp32 needs no images"),
        (
            {"precision": "fp16", "quantize_attention": True},
            "export.quantize_attention=True changes nothing: it is for int8, not for fp16",
        ),
        ({"targets": ("torch",), "compile": False}, ""),
        ({"opset": 18, "precision": "int8", "quantize_attention": True, "calibration_images": 5}, ""),
        ({}, ""),
    ],
)
def test_what_nothing_reads_is_said(given: dict[str, Any], said: str) -> None:
    assert idle(recipe.Export(**given)) == [said] * bool(said)
