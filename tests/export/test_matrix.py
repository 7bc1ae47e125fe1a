"""Every model in every target, precision and kind of batch: written, and right where this machine can tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit import plugins, records
from toolkit.bench.feed import predict_logits
from toolkit.bench.identity import identify
from toolkit.bench.runtimes import runtime
from toolkit.errors import RecipeError, WrongMachine
from toolkit.export import target
from toolkit.models.model import Model
from toolkit.records import Artifact

MODELS = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
TARGETS = ("onnx", "openvino", "rtx", "torch")
LACKING = {("openvino", "fp16"): "no fp16", ("torch", "int8"): "no int8"}
NEEDS_A_GPU = ("rtx",)
NEEDS_OTHER_KERNELS = (("onnx", "bf16"),)
"""Written, but not run by the processor's runtime."""
CLOSE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 0.2}
"""Largest difference from torch, as a share of the largest logit; int8 on untrained weights."""


def test_the_targets_there_are() -> None:
    assert sorted((*TARGETS, "tensorrt")) == plugins.names("toolkit.export")


@pytest.fixture
def model(models: Callable[..., Model], name: str, heads: str) -> Model:
    return models(name, heads)


@pytest.mark.pairwise
@pytest.mark.parametrize("batch_size", [(1, 4, 8), (4,)], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("heads", ["even", "uneven"])
@pytest.mark.parametrize("name", MODELS)
def test_every_file(
    model: Model,
    exported: Callable[..., Artifact],
    tmp_path: Path,
    kind: str,
    precision: str,
    batch_size: tuple[int, ...],
) -> None:
    if (kind, precision) in LACKING:
        with pytest.raises(RecipeError, match=LACKING[kind, precision]):
            exported(model, kind, precision=precision, batch_size=batch_size)
        return
    artifact = exported(model, kind, precision=precision, batch_size=batch_size, compile=False)
    assert records.load(Artifact, tmp_path / "out" / "artifact.json") == artifact
    assert (artifact.target, artifact.precision, artifact.model) == (kind, precision, model.info)
    assert artifact.inputs[0].shape[0] == ("batch" if len(batch_size) > 1 else 4)
    if kind in NEEDS_A_GPU or (kind, precision) in NEEDS_OTHER_KERNELS:
        assert artifact.max_abs_difference is None
        return
    if artifact.max_abs_difference is None:  # bf16 on a processor without it: known only when it is compiled
        assert (kind, precision) == ("openvino", "bf16")
        with pytest.raises(WrongMachine):
            runtime("openvino").open(tmp_path / "out", threads=1)
        return
    images = np.random.default_rng(1).standard_normal((5, 3, 16, 16), dtype=np.float32)
    with torch.inference_mode():
        expected = model.module(torch.from_numpy(images)).numpy()
    with runtime(target(kind).runtime).open(tmp_path / "out", threads=1) as session:
        found = predict_logits(session, images, identify(tmp_path / "out"))
    assert np.abs(found - expected).max() <= CLOSE[precision] * np.abs(expected).max()


@pytest.mark.parametrize(
    "precision",
    [pytest.param("fp32", marks=pytest.mark.slow), pytest.param("fp16", marks=pytest.mark.slow), "bf16", "int8"],
)
def test_one_node_for_a_layers_attention(
    models: Callable[..., Model], exported: Callable[..., Artifact], precision: str
) -> None:
    artifact = exported(models(heads="uneven"), "onnx", precision=precision, attention="custom")
    assert artifact.options["attention"] == "custom"
    assert (artifact.max_abs_difference is None) == (precision == "bf16")
