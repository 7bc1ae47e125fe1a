"""What torch computes is attention, and the same, whatever form a graph has it in."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from toolkit.export.attention import FORMS, FlatAttention
from toolkit.export.flat import flatten
from toolkit.export.precision import Kept, lower, ranges
from toolkit.models.model import Model

NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def flat(model: Model, form: str, tokens_multiple: int = 1) -> nn.Module:
    module = copy.deepcopy(model.module).requires_grad_(False)
    flatten(module, 16, FORMS[form], only_what_is_read=True, tokens_multiple=tokens_multiple)
    return module


@pytest.mark.parametrize("multiple", [1, 4], ids=["as many tokens as there are", "padded tokens"])
@pytest.mark.parametrize("heads", ["even", "uneven"])
@pytest.mark.parametrize("name", NAMES)
def test_every_form_is_the_model(models: Callable[..., Model], name: str, heads: str, multiple: int) -> None:
    model = models(name, heads)
    with torch.inference_mode():
        expected = model.module(IMAGES)
        found = {form: flat(model, form, multiple)(IMAGES) for form in FORMS}
    torch.testing.assert_close(found["decomposed"], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    for form, logits in found.items():
        assert torch.equal(logits, found["decomposed"]), form


@pytest.mark.parametrize("name", NAMES)
def test_in_lower_precision_too(models: Callable[..., Model], name: str) -> None:
    found = {}
    for form in FORMS:
        module = flat(models(name, "uneven"), form)
        lower(module, torch.float16, Kept(softmax=frozenset({"blocks.0.attn"})))
        with torch.inference_mode():
            found[form] = module(IMAGES)
    for form, logits in found.items():
        assert torch.equal(logits, found["decomposed"]), form


@pytest.mark.parametrize("form", ["standard", "custom"])
def test_a_node_of_a_graph_is_an_error_outside_of_one(models: Callable[..., Model], form: str) -> None:
    """torch would give zeros."""
    attention = flat(models(), form).get_submodule("blocks.0.attn")
    assert isinstance(attention, FlatAttention)
    packed = attention.qkv(torch.zeros(2 * attention.layer.tokens, 24))
    with pytest.raises(RuntimeError, match=r"torch cannot compute .*Attention.*: it is for ONNX graphs only"):
        attention.form(packed, None, None, attention.layer)


def test_a_program_of_torch_computes_attention_too(models: Callable[..., Model]) -> None:
    model = models()
    program = torch.export.export(flat(model, "standard"), (IMAGES,)).module()
    with torch.inference_mode():
        torch.testing.assert_close(program(IMAGES), model.module(IMAGES), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_what_hides_tokens_is_no_logit_that_occurs(models: Callable[..., Model], name: str) -> None:
    images, model = IMAGES.numpy(), models(name)
    padded, whole = (ranges(flat(model, "decomposed", multiple), images).logits for multiple in (4, 1))
    assert padded["blocks.0.attn"] < 100
    assert whole["blocks.0.attn"] <= padded["blocks.0.attn"]
