"""FlatAttention equals the model's attention in PyTorch, whatever its form in the graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from toolkit.export.attention import FORMS, Biases
from toolkit.export.flat import flatten
from toolkit.export.flat_attention import FlatAttention
from toolkit.export.precision import Fp32Layers, lower, measure_ranges
from toolkit.models.model import Model

NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def flat(model: Model, form: str, tokens_multiple: int = 1) -> nn.Module:
    model = model.copied()
    flatten(model, FORMS[form], trim_last_block=True, tokens_multiple=tokens_multiple)
    return model.module.requires_grad_(False)


@pytest.mark.parametrize("multiple", [1, 4], ids=["no padding", "padded tokens"])
@pytest.mark.parametrize("heads", ["even", "uneven"])
@pytest.mark.parametrize("name", NAMES)
def test_every_form_equals_the_model(models: Callable[..., Model], name: str, heads: str, multiple: int) -> None:
    model = models(name, heads)
    with torch.inference_mode():
        expected = model.module(IMAGES)
        logits = {form: flat(model, form, multiple)(IMAGES) for form in FORMS}
    torch.testing.assert_close(logits["decomposed"], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    for form in FORMS:
        assert torch.equal(logits[form], logits["decomposed"]), form


@pytest.mark.parametrize("name", NAMES)
def test_all_forms_are_equal_in_half_precision(models: Callable[..., Model], name: str) -> None:
    logits = {}
    for form in FORMS:
        module = flat(models(name, "uneven"), form)
        lower(module, torch.float16, Fp32Layers(softmax=frozenset({"blocks.0.attn"})), "patch_embed")
        with torch.inference_mode():
            logits[form] = module(IMAGES)
    for form in FORMS:
        assert torch.equal(logits[form], logits["decomposed"]), form


@pytest.mark.parametrize("form", ["standard", "custom"])
def test_onnx_nodes_raise_outside_of_an_onnx_export(models: Callable[..., Model], form: str) -> None:
    """torch would return zeros."""
    attention = flat(models(), form).get_submodule("blocks.0.attn")
    assert isinstance(attention, FlatAttention)
    qkv = attention.qkv(torch.zeros(2 * attention.spec.num_tokens, 24))
    with pytest.raises(RuntimeError, match=r"torch cannot compute .*Attention.*: it is for ONNX graphs only"):
        attention.form(qkv, None, Biases(), attention.spec)


def test_a_torch_export_program_computes_attention(models: Callable[..., Model]) -> None:
    model = models()
    program = torch.export.export(flat(model, "standard"), (IMAGES,)).module()
    with torch.inference_mode():
        torch.testing.assert_close(program(IMAGES), model.module(IMAGES), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_ranges_of_logits_exclude_the_mask_value(models: Callable[..., Model], name: str) -> None:
    images, model = IMAGES.numpy(), models(name)
    padded, unpadded = (measure_ranges(flat(model, "decomposed", multiple), images).logits for multiple in (4, 1))
    assert padded["blocks.0.attn"] < 100
    assert unpadded["blocks.0.attn"] <= padded["blocks.0.attn"]
