"""int8 graphs: what is quantised, what is not, and how it is calibrated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from toolkit import recipe
from toolkit.export.artifact import export
from toolkit.export.quantize import predict_with, quantized
from toolkit.models.model import Model
from toolkit.records import Artifact

IMAGES = np.random.default_rng(0).standard_normal((7, 3, 16, 16), dtype=np.float32)
"""No multiple of any batch."""


@pytest.fixture(scope="module")
def written(models: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    export("onnx", models(heads="uneven"), recipe.Export(attention="decomposed"), folder)
    return folder / "model.onnx"


@pytest.fixture
def proto(written: Path) -> ModelProto:
    return onnx.load(written)


def in_int8(proto: ModelProto) -> Counter[str]:
    """Operators that read dequantised values, by layer."""
    made = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    kinds = ("Gemm", "Conv", "MatMul")
    return Counter(node.name for node in proto.graph.node if node.op_type in kinds and made.issuperset(node.input[:2]))


def test_linear_layers_are_quantised_and_attentions_products_only_when_asked(proto: ModelProto) -> None:
    linear = in_int8(quantized(proto, IMAGES, symmetric=False, products=False, kept=()))
    every = {node.name for node in proto.graph.node if node.op_type in ("Gemm", "Conv")}
    assert linear.keys() == every
    products = in_int8(quantized(proto, IMAGES, symmetric=False, products=True, kept=()))
    assert products.keys() - every == {node.name for node in proto.graph.node if node.op_type == "MatMul"}


def test_blocks_that_are_kept_hold_no_int8(proto: ModelProto) -> None:
    found = in_int8(quantized(proto, IMAGES, symmetric=False, products=True, kept=(1,)))
    assert not any(name.startswith("blocks.1.") for name in found)
    assert any(name.startswith("blocks.0.") for name in found)


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_by_channel_and_activations_as_the_target_wants_them(proto: ModelProto, symmetric: bool) -> None:
    graph = quantized(proto, IMAGES, symmetric=symmetric, products=False, kept=()).graph
    values = {each.name: each for each in graph.initializer}
    zeros = [values[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert zeros
    assert {each.data_type for each in zeros} == {TensorProto.INT8 if symmetric else TensorProto.UINT8}
    if symmetric:
        assert not any(numpy_helper.to_array(each).any() for each in zeros)
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in values]
    by_channel = [node for node in weights if values[node.input[0]].data_type == TensorProto.INT8]
    assert by_channel
    assert all(numpy_helper.to_array(values[node.input[1]]).size > 1 for node in by_channel)


def test_answers_are_those_of_all_images_whatever_the_batch(
    models: Callable[..., Model], exported: Callable[..., Artifact], tmp_path: Path
) -> None:
    dynamic = predict_with(_proto(exported(models()), tmp_path))(IMAGES)
    fixed = predict_with(_proto(exported(models(), batch_size=4), tmp_path))(IMAGES)
    assert fixed.shape == (7, 3)
    np.testing.assert_allclose(fixed, dynamic, atol=1e-5)


def _proto(artifact: Artifact, folder: Path) -> ModelProto:
    return onnx.load(folder / "out" / artifact.file)
