"""What is written is judged: by its numbers, and where a format costs accuracy, by that."""

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
from toolkit.export.attention import Run
from toolkit.export.calibrate import Images, Sample
from toolkit.export.choices import choices
from toolkit.export.prepare import Prepared, prepare
from toolkit.export.reference import answers, compared, reference
from toolkit.models.model import Model
from toolkit.progress import silent
from toolkit.records import Artifact

Models = Callable[..., Model]


@pytest.fixture
def prepared(models: Models, sample_of: Callable[..., Sample]) -> Prepared:
    model, options = models(), recipe.Export(precision="bf16")
    made = choices("openvino", target("openvino").abilities(), options)
    return prepare(model, options, made, sample_of(model), silent)


def test_a_model_that_is_not_as_right_as_in_training_decides_nothing(
    models: Models, sample_of: Callable[..., Sample]
) -> None:
    model = models()
    sample = sample_of(model)  # which it answers right
    images = len(sample.parts[1].labels)
    known = reference(model, replace(sample, trained={"one": 1.0, "two": 1.01 - 2 / images**0.5}))
    assert known.accuracies == (1.0, 1.0)
    lost = rf"right for 100.0% of {images} images of two, and was for 0.0% of the validation images"
    with pytest.raises(CheckFailed, match=lost):
        reference(model, replace(sample, trained={"one": 1.0, "two": 0.0}))


def test_a_file_that_answers_as_the_model_costs_nothing(prepared: Prepared) -> None:
    made = check.costs(prepared, recipe.Export(precision="bf16"), partial(answers, prepared.model.module))
    assert made.accuracy == made.reference == {"one": 1.0, "two": 1.0}


def test_a_file_that_answers_otherwise_fails(prepared: Prepared) -> None:
    def turned(images: Images) -> Images:
        return -answers(prepared.model.module, images)

    with pytest.raises(CheckFailed, match=r"accuracy on a sample falls from 100.0%, 100.0% to 0.0%, 0.0%"):
        check.costs(prepared, recipe.Export(precision="bf16"), turned)


def test_a_file_without_numbers_fails_whatever_the_margin(prepared: Prepared) -> None:
    """The largest of NaNs would be the first class, and right for some images."""
    assert prepared.reference is not None
    sample = replace(prepared.reference.sample, margin=0.999)
    lenient = replace(prepared, reference=replace(prepared.reference, sample=sample))

    def lost(images: Images) -> Images:
        return np.full((len(images), 3), np.nan, np.float32)

    with pytest.raises(CheckFailed, match=r"falls from 100.0%, 100.0% to NaN, NaN"):
        check.costs(lenient, recipe.Export(precision="bf16"), lost)


@pytest.mark.parametrize("options", [{"input": "uint8"}, {"image_size": (8, 16, 24)}], ids=str)
def test_the_reference_is_the_models_own(
    models: Models, exported: Callable[..., Artifact], options: dict[str, Any]
) -> None:
    """The sample's classes are what the model answers to images of the usual size."""
    lowered = exported(models(), precision="fp16", **options).lowered
    assert lowered is not None
    if "image_size" in options:
        assert lowered.reference == {"one": 1.0, "two": 1.0}
    assert lowered.accuracy == pytest.approx(lowered.reference, abs=0.125)


def test_a_rewritten_model_that_is_not_the_model_decides_nothing(
    models: Models, exported: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeros(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, run: Run) -> Tensor:
        return torch.zeros(*q.shape[:2], v.shape[-1])

    monkeypatch.setattr("toolkit.export.attention.by_products", zeros)
    with pytest.raises(CheckFailed, match="the rewritten model's logits differ from torch's by"):
        exported(models(), precision="int8")


def test_a_model_without_numbers_is_no_reference(models: Models, exported: Callable[..., Artifact]) -> None:
    model = models()
    lost = copy.deepcopy(model.module)
    with torch.no_grad():
        lost.get_parameter("head.bias")[0] = torch.nan
    with pytest.raises(CheckFailed, match="not finite for images of one, two"):
        exported(replace(model, module=lost), precision="int8")


@pytest.mark.parametrize(("kind", "precision"), [("openvino", "bf16"), ("onnx", "fp16"), ("onnx", "int8")])
def test_lower_precision_without_images_to_judge_it_by(
    models: Models, tmp_path: Path, kind: str, precision: str
) -> None:
    options = recipe.Export.model_validate({"precision": precision})
    with pytest.raises(BadInput, match=f"{precision} needs images"):
        export(kind, models(), options, tmp_path / "out")


def test_bfloat16_that_the_processor_does_not_have(
    models: Models, exported: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO would compute in float32 and not say so."""
    for module in ("export", "bench.runtimes"):
        monkeypatch.setattr(f"toolkit.{module}.openvino.runs_in", lambda computed_in, precision: precision != "bf16")
    artifact = exported(models(), "openvino", precision="bf16")
    assert artifact.max_abs_difference is None
    assert artifact.lowered is None
    with pytest.raises(WrongMachine, match="this processor does not have bf16"):
        runtime.PLUGIN.open(tmp_path / "out", threads=1)


def test_numbers_that_are_not_finite_fail() -> None:
    expected = np.ones((1, 2), np.float32)
    with pytest.raises(CheckFailed, match="not finite"):
        compared(expected, expected * np.nan, None)
