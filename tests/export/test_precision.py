"""fp16 and bf16: which layers stay float32, and that no others do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from toolkit.export.attention import FORMS
from toolkit.export.flat import flatten
from toolkit.export.precision import Fp32Layers, Ranges, layers_in_fp32, lower, measure_ranges
from toolkit.export.rewrite import REWRITES, rewrite
from toolkit.models.model import Model
from toolkit.records import Artifact

IMAGES = np.random.default_rng(0).standard_normal((40, 3, 16, 16), dtype=np.float32)

BLOCKS = [f"blocks.{index}" for index in range(8)]


@pytest.fixture
def flat(models: Callable[..., Model]) -> nn.Module:
    model = models(heads="uneven")
    rewrite(model, REWRITES)
    flatten(model, FORMS["decomposed"], trim_last_block=True)
    return model.module.requires_grad_(False)


def test_ranges_are_the_largest_absolute_values(flat: nn.Module) -> None:
    maxima: list[float] = []
    hook = flat.get_submodule("blocks.0.norm2").register_forward_hook(
        lambda layer, inputs, output: maxima.append(float(inputs[0].abs().max()))
    )
    ranges = measure_ranges(flat, IMAGES)
    hook.remove()
    assert ranges.norms["blocks.0.norm2"] == max(maxima)
    assert ranges.norms.keys() == {"blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm"}
    assert ranges.logits.keys() == {"blocks.0.attn", "blocks.1.attn"}
    assert ranges.logits["blocks.0.attn"] > 0
    assert "blocks.1.mlp.fc2" in ranges.linears


def test_measuring_ranges_leaves_the_module_unchanged(flat: nn.Module) -> None:
    with torch.inference_mode():
        before = flat(torch.from_numpy(IMAGES))
        measure_ranges(flat, IMAGES)
        assert torch.equal(flat(torch.from_numpy(IMAGES)), before)
    assert not any(layer._forward_hooks for name, layer in flat.named_modules() if name.startswith("blocks.0."))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_ranges_need_no_fp32(dtype: torch.dtype) -> None:
    ranges = Ranges({"blocks.0.norm1": 2.0}, {"blocks.0.attn": 4.0}, {"blocks.0.mlp.fc1": 9.0}, {"blocks.0.norm1": 1.0})
    assert layers_in_fp32(ranges, dtype, BLOCKS) == Fp32Layers()


def test_ranges_that_overflow_or_are_too_coarse_stay_in_fp32() -> None:
    typical, softmax = {"blocks.0.norm1": 1.0}, Fp32Layers(softmax=frozenset({"blocks.3.attn"}))
    assert layers_in_fp32(
        Ranges(norms={"blocks.0.norm1": 250.0}, typical=typical), torch.float16, BLOCKS
    ) == Fp32Layers(residual=True, norms=frozenset({"blocks.0.norm1"}))
    assert layers_in_fp32(Ranges(logits={"blocks.3.attn": 65.0}), torch.float16, BLOCKS) == softmax
    assert layers_in_fp32(Ranges(logits={"blocks.3.attn": 9.0}), torch.bfloat16, BLOCKS) == softmax
    assert layers_in_fp32(Ranges(linears={"blocks.7.mlp.fc1": 4e4}), torch.float16, BLOCKS) == Fp32Layers(
        blocks=frozenset({7})
    )
    assert layers_in_fp32(Ranges(logits={"blocks.3.attn": 4e4}), torch.float16, BLOCKS).blocks == {3}
    assert layers_in_fp32(Ranges(linears={"blocks.7.mlp.fc1": 4e4}), torch.bfloat16, BLOCKS) == Fp32Layers()


@pytest.mark.parametrize(
    "in_fp32",
    [
        Fp32Layers(),
        Fp32Layers(residual=True),
        Fp32Layers(norms=frozenset({"blocks.0.norm1", "norm"})),
        Fp32Layers(softmax=frozenset({"blocks.0.attn", "blocks.1.attn"})),
        Fp32Layers(blocks=frozenset({0})),
        Fp32Layers(blocks=frozenset({0, 1}), residual=True),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_stay_close_whatever_stays_in_fp32(flat: nn.Module, dtype: torch.dtype, in_fp32: Fp32Layers) -> None:
    images = torch.from_numpy(IMAGES)
    with torch.inference_mode():
        expected = flat(images)
        lower(flat, dtype, in_fp32, "patch_embed")
        logits = flat(images)
    assert logits.dtype == torch.float32
    assert float((logits - expected).abs().max()) <= (2e-2 if dtype == torch.float16 else 1e-1) * expected.abs().max()
    types = {name: parameter.dtype for name, parameter in flat.named_parameters()}
    assert types["blocks.1.mlp.fc1.weight"] == (torch.float32 if 1 in in_fp32.blocks else dtype)
    assert types["blocks.0.mlp.fc1.weight"] == (torch.float32 if 0 in in_fp32.blocks else dtype)
    assert types["norm.weight"] == (torch.float32 if "norm" in in_fp32.norms else dtype)
    assert types["pos_embed"] == (torch.float32 if in_fp32.residual else dtype)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "FLOAT16"), ("bf16", "BFLOAT16")])
def test_weights_in_the_graph_have_the_precisions_dtype(
    models: Callable[..., Model], exported: Callable[..., Artifact], tmp_path: Path, precision: str, dtype: str
) -> None:
    exported(models(heads="uneven"), precision=precision)
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    linears = {node.input[1] for node in graph.node if node.op_type == "Gemm"}
    weights = [tensor for tensor in graph.initializer if tensor.name in linears]
    assert {TensorProto.DataType.Name(tensor.data_type) for tensor in weights} == {dtype}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
