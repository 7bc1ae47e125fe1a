"""Exported models with merged tokens attend in proportion to the tokens' sizes, as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from toolkit.export.attention import FORMS
from toolkit.export.flat import flatten
from toolkit.export.flat_attention import FlatAttention
from toolkit.models.block import attentions
from toolkit.models.model import Model
from toolkit.records import Artifact

TOKENS = 5
OPSETS = {"decomposed": 20, "packed": 20, "standard": 23, "custom": 20}
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def with_sizes(block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Sizes that depend on the image, in place of those of merged tokens. x: [batch, tokens, width] or flattened."""
    return inputs[0], 1 + inputs[0][..., 0].reshape(-1, TOKENS).square()


@pytest.fixture
def merged(uneven: Callable[..., Model]) -> Callable[[str], Model]:
    """`merged(name)`: three blocks, with sizes from the second on."""

    def create(name: str) -> Model:
        model = uneven(name, depth=3)
        model.blocks[1][1].register_forward_pre_hook(with_sizes)
        return model.with_info(replace(model.info, weights_sha256="ab" * 32))

    return create


@pytest.mark.each_choice
@pytest.mark.parametrize("attention", OPSETS)
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_onnxruntime_equals_pytorch(
    merged: Callable[[str], Model],
    exported: Callable[..., Artifact],
    uneven: Callable[..., Model],
    tmp_path: Path,
    name: str,
    attention: str,
) -> None:
    model = merged(name)
    artifact = exported(model, opset=OPSETS[attention], attention=attention)
    assert artifact.max_abs_difference is not None  # compared with PyTorch at two batch sizes
    session = onnxruntime.InferenceSession(tmp_path / "out" / artifact.file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": IMAGES.numpy()})
    plain = uneven(name, depth=3)
    with torch.inference_mode():
        expected, without_sizes = (each.module(IMAGES).numpy() for each in (model, plain))
    scale = np.abs(expected).max()
    assert np.abs(logits - expected).max() <= 1e-5 * scale
    assert np.abs(logits - without_sizes).max() > 1e-3 * scale


def test_sizes_in_half_precision(
    merged: Callable[[str], Model], exported: Callable[..., Artifact], tmp_path: Path
) -> None:
    model = merged("vit_tiny_patch16_224")
    artifact = exported(model, opset=20, attention="custom", precision="fp16")
    nodes = [node for node in onnx.load(tmp_path / "out" / artifact.file).graph.node if node.domain == "toolkit"]
    optional = [attribute.s.decode() for node in nodes for attribute in node.attribute if attribute.name == "optional"]
    assert optional == ["", "key_bias", "queries,key_bias"]
    assert artifact.lowered is not None


@pytest.mark.parametrize("form", FORMS)
def test_flat_attention_equals_the_models(uneven: Callable[..., Model], form: str) -> None:
    """With a key bias of minus infinity, a token is not attended to."""
    model = uneven("beit_base_patch16_224")
    key_bias = torch.tensor([[0.0, 0.3, -1.0, 2.0, -torch.inf]]).repeat(2, 1)
    attention = attentions(model.module)["blocks.0.attn"]
    x = torch.randn(2, TOKENS, attention.proj.out_features, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = attention(x, key_bias)
        assert not torch.allclose(expected, attention(x))
        flatten(model, FORMS[form], trim_last_block=False)
        flat = model.module.get_submodule("blocks.0.attn")
        assert isinstance(flat, FlatAttention)
        torch.testing.assert_close(flat(x.flatten(0, 1), key_bias), expected.flatten(0, 1), rtol=1e-5, atol=1e-5)
