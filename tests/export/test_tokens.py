"""Exported models with merged tokens and a trimmed last block compute what they compute in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from toolkit.errors import UnsupportedModel
from toolkit.models.model import Model
from toolkit.models.tokens import with_tokens
from toolkit.records import Artifact, Matching, Merge

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def merged(uneven: Callable[..., Model]) -> Callable[..., Model]:
    """`merged(matching)`: four blocks, of which two merge tokens, and the last is trimmed."""

    def create(matching: Matching = "bipartite") -> Model:
        model = uneven(depth=4, image_size=32)
        merges = (Merge(1, 12, matching), Merge(2, 8, matching))
        slim = with_tokens(model, merges, trim_last_block=True)
        return slim.with_info(replace(slim.info, weights_sha256="ab" * 32))

    return create


@pytest.mark.each_choice
@pytest.mark.parametrize("attention", ["decomposed", "packed", "standard", "custom"])
@pytest.mark.parametrize("matching", ["bipartite", "grid"])
def test_onnxruntime_equals_pytorch(
    merged: Callable[..., Model],
    exported: Callable[..., Artifact],
    tmp_path: Path,
    matching: Matching,
    attention: str,
) -> None:
    model = merged(matching)
    artifact = exported(model, opset=23 if attention == "standard" else 20, attention=attention)
    session = onnxruntime.InferenceSession(tmp_path / "out" / artifact.file, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = model.module(IMAGES).numpy()
    for images, logits in ((IMAGES, expected), (IMAGES[:1], expected[:1])):
        (actual,) = session.run(["logits"], {"images": images.numpy()})
        assert np.abs(actual - logits).max() <= 1e-5 * np.abs(expected).max()


def test_a_merge_is_a_product_in_the_graph(
    merged: Callable[..., Model], exported: Callable[..., Artifact], tmp_path: Path
) -> None:
    artifact = exported(merged())
    operators = {node.op_type for node in onnx.load(tmp_path / "out" / artifact.file).graph.node}
    assert "TopK" in operators
    assert not {name for name in operators if "Scatter" in name}


@pytest.mark.parametrize("target", ["openvino", pytest.param("torch", marks=pytest.mark.slow)])
def test_other_targets(merged: Callable[..., Model], exported: Callable[..., Artifact], target: str) -> None:
    artifact = exported(merged(), target)  # compared with PyTorch at two batch sizes
    assert artifact.max_abs_difference is not None
    assert artifact.model.merges == (Merge(1, 12), Merge(2, 8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "precision"),
    [("onnx", "fp16"), ("onnx", "int8"), ("openvino", "bf16"), ("rtx", "fp32"), ("rtx", "fp16"), ("rtx", "bf16")],
)
def test_lower_precision_and_engines(
    merged: Callable[..., Model], exported: Callable[..., Artifact], target: str, precision: str
) -> None:
    """Accuracy is compared while a file of lower precision is made."""
    options = {"gpus": "sm_89"} if target == "rtx" else {}
    artifact = exported(merged(), target, precision=precision, image_size=(32,), **options)
    assert artifact.model.merges == (Merge(1, 12), Merge(2, 8))
    if precision != "fp32":
        assert artifact.lowered is not None
        assert artifact.lowered.accuracy.keys() == artifact.lowered.reference.keys()


def test_any_image_size_is_refused(merged: Callable[..., Model], exported: Callable[..., Artifact]) -> None:
    with pytest.raises(UnsupportedModel, match="merges tokens, whose number is fixed"):
        exported(merged(), image_size=(24, 32, 48))
