"""Exported files are checked by their logits and, in lower precision, by their accuracy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from toolkit import recipe
from toolkit.bench.runtimes import openvino as runtime
from toolkit.errors import BadInput, CheckFailed, WrongMachine
from toolkit.export import check, target
from toolkit.export.artifact import export
from toolkit.export.attention import HeadBucket
from toolkit.export.calibrate import Sample
from toolkit.export.prepare import Prepared, prepare
from toolkit.export.reference import compute_reference, max_difference, predict
from toolkit.export.settings import resolve_settings
from toolkit.models.model import Model
from toolkit.pixels import Array
from toolkit.progress import silent
from toolkit.records import Artifact

Models = Callable[..., Model]


@pytest.fixture
def prepared(models: Models, sample_of: Callable[..., Sample]) -> Prepared:
    model, options = models(), recipe.Export(precision="bf16")
    settings = resolve_settings("openvino", target("openvino").capabilities(), options)
    return prepare(model, options, settings, sample_of(model), silent)


def test_an_accuracy_far_from_that_in_training_is_an_error(models: Models, sample_of: Callable[..., Sample]) -> None:
    model = models()
    sample = sample_of(model)  # accuracy 100 %
    images = len(sample.domains[1].labels)
    near = {"one": 1.0, "two": 1.01 - 2 / images**0.5}
    assert compute_reference(model, replace(sample, trained_accuracy=near)).accuracies == (1.0, 1.0)
    message = rf"accuracy on {images} images of two is 100.0%, but training measured 0.0% on the validation images"
    with pytest.raises(CheckFailed, match=message):
        compute_reference(model, replace(sample, trained_accuracy={"one": 1.0, "two": 0.0}))


def test_a_file_with_the_models_predictions_passes(prepared: Prepared) -> None:
    lowered = check.check_accuracy(prepared, recipe.Export(precision="bf16"), partial(predict, prepared.model.module))
    assert lowered.accuracy == lowered.reference == {"one": 1.0, "two": 1.0}


def test_a_file_with_other_predictions_fails(prepared: Prepared) -> None:
    def negated(images: Array) -> Array:
        return -predict(prepared.model.module, images)

    with pytest.raises(CheckFailed, match=r"accuracy on a sample drops from 100.0%, 100.0% to 0.0%, 0.0%"):
        check.check_accuracy(prepared, recipe.Export(precision="bf16"), negated)


def test_a_file_with_nan_logits_fails_whatever_the_margin(prepared: Prepared) -> None:
    """argmax of NaNs is class 0, which is correct for some images."""
    assert prepared.reference is not None
    sample = replace(prepared.reference.sample, margin=0.999)
    lenient = replace(prepared, reference=replace(prepared.reference, sample=sample))

    def nan_logits(images: Array) -> Array:
        return np.full((len(images), 3), np.nan, np.float32)

    with pytest.raises(CheckFailed, match=r"drops from 100.0%, 100.0% to NaN, NaN"):
        check.check_accuracy(lenient, recipe.Export(precision="bf16"), nan_logits)


@pytest.mark.parametrize("options", [{"input": "uint8"}, {"image_size": (8, 16, 24)}], ids=str)
def test_the_reference_accuracy_is_the_models(
    models: Models, exported: Callable[..., Artifact], options: dict[str, Any]
) -> None:
    """The sample's labels are the model's predictions for images of the typical size."""
    lowered = exported(models(), precision="fp16", **options).lowered
    assert lowered is not None
    if "image_size" in options:
        assert lowered.reference == {"one": 1.0, "two": 1.0}
    assert lowered.accuracy == pytest.approx(lowered.reference, abs=0.125)


def test_a_rewritten_model_with_other_logits_fails(
    models: Models, exported: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeros(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, bucket: HeadBucket) -> Tensor:
        return torch.zeros(*q.shape[:2], v.shape[-1])

    monkeypatch.setattr("toolkit.export.flat_attention.decomposed", zeros)
    with pytest.raises(CheckFailed, match="logits of the rewritten model differ from PyTorch's by"):
        exported(models(), precision="int8")


def test_a_model_with_nan_logits_is_refused(models: Models, exported: Callable[..., Artifact]) -> None:
    model = models()
    module = copy.deepcopy(model.module)
    with torch.no_grad():
        module.get_parameter("head.bias")[0] = torch.nan
    with pytest.raises(CheckFailed, match="logits for images of one, two are not finite"):
        exported(replace(model, module=module), precision="int8")


@pytest.mark.parametrize(("name", "precision"), [("openvino", "bf16"), ("onnx", "fp16"), ("onnx", "int8")])
def test_lower_precision_without_a_sample_is_refused(models: Models, tmp_path: Path, name: str, precision: str) -> None:
    options = recipe.Export.model_validate({"precision": precision})
    with pytest.raises(BadInput, match=f"{precision} needs images"):
        export(name, models(), options, tmp_path / "out")


def test_bf16_on_a_cpu_without_bf16(
    models: Models, exported: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO would silently compute in float32."""
    for module in ("export", "bench.runtimes"):
        monkeypatch.setattr(f"toolkit.{module}.openvino.runs_in", lambda computed_in, precision: precision != "bf16")
    artifact = exported(models(), "openvino", precision="bf16")
    assert artifact.max_abs_difference is None
    assert artifact.lowered is None
    with pytest.raises(WrongMachine, match="this CPU has no bf16 support"):
        runtime.PLUGIN.open(tmp_path / "out", threads=1)


def test_logits_that_are_not_finite_fail() -> None:
    expected = np.ones((1, 2), np.float32)
    with pytest.raises(CheckFailed, match="not finite"):
        max_difference(expected, expected * np.nan, None)
