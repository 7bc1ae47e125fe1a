"""int8 graphs: which operators are quantised, and how."""

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
"""Not a multiple of any batch size."""


@pytest.fixture(scope="module")
def file(models: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float32")
    export("onnx", models(heads="uneven"), recipe.Export(attention="decomposed"), folder)
    return folder / "model.onnx"


@pytest.fixture
def proto(file: Path) -> ModelProto:
    return onnx.load(file)


def in_int8(proto: ModelProto) -> Counter[str]:
    """Operators with dequantised inputs, by node name."""
    dequantised = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    nodes = [node for node in proto.graph.node if node.op_type in ("Gemm", "Conv", "MatMul")]
    return Counter(node.name for node in nodes if dequantised.issuperset(node.input[:2]))


def test_linear_layers_are_quantised_and_attentions_products_only_on_request(proto: ModelProto) -> None:
    linear = in_int8(quantized(proto, IMAGES, symmetric=False, products=False, fp32_blocks=()))
    linear_layers = {node.name for node in proto.graph.node if node.op_type in ("Gemm", "Conv")}
    assert linear.keys() == linear_layers
    products = in_int8(quantized(proto, IMAGES, symmetric=False, products=True, fp32_blocks=()))
    assert products.keys() - linear_layers == {node.name for node in proto.graph.node if node.op_type == "MatMul"}


def test_blocks_in_fp32_are_not_quantised(proto: ModelProto) -> None:
    nodes = in_int8(quantized(proto, IMAGES, symmetric=False, products=True, fp32_blocks=("blocks.1",)))
    assert not any(name.startswith("blocks.1.") for name in nodes)
    assert any(name.startswith("blocks.0.") for name in nodes)


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_are_per_channel_and_activations_symmetric_or_uint8(proto: ModelProto, symmetric: bool) -> None:
    graph = quantized(proto, IMAGES, symmetric=symmetric, products=False, fp32_blocks=()).graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    zero_points = [values[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert zero_points
    assert {zero.data_type for zero in zero_points} == {TensorProto.INT8 if symmetric else TensorProto.UINT8}
    if symmetric:
        assert not any(numpy_helper.to_array(zero).any() for zero in zero_points)
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in values]
    per_channel = [node for node in weights if values[node.input[0]].data_type == TensorProto.INT8]
    assert per_channel
    assert all(numpy_helper.to_array(values[node.input[1]]).size > 1 for node in per_channel)


def test_fixed_and_dynamic_batches_give_equal_logits(
    models: Callable[..., Model], exported: Callable[..., Artifact], tmp_path: Path
) -> None:
    dynamic = predict_with(_proto(exported(models()), tmp_path))(IMAGES)
    fixed = predict_with(_proto(exported(models(), batch_size=4), tmp_path))(IMAGES)
    assert fixed.shape == (7, 3)
    np.testing.assert_allclose(fixed, dynamic, atol=1e-5)


def _proto(artifact: Artifact, folder: Path) -> ModelProto:
    return onnx.load(folder / "out" / artifact.file)
