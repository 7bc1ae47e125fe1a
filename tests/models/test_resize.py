"""Resized models equal timm's resampling, also after pruning."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import timm
import torch

from toolkit.errors import MissingDependency, RecipeError, UnsupportedModel
from toolkit.models.architectures.timm_vit.canonical import canonicalise
from toolkit.models.model import Model
from toolkit.models.profile import profile
from toolkit.models.resize import check_sizes, resized

Models = Callable[..., Model]
NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_timms(name: str) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name, img_size=64, depth=2, num_classes=3).eval()
    for module in theirs.modules():
        if (table := getattr(module, "relative_position_bias_table", None)) is not None:
            torch.nn.init.normal_(table)
    ours = timm.create_model(name, img_size=64, depth=2, num_classes=3).eval()
    ours.load_state_dict(theirs.state_dict())
    canonicalise(ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for model in (theirs, ours):
            model.set_input_size(img_size=(96, 96))
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_pruned_model_can_be_resized(small: Models, uneven: Models, name: str) -> None:
    model = uneven(name, depth=2)
    patch = model.module.get_submodule("patch_embed").patch_size[0]
    size = model.info.image_size + patch
    larger = resized(model, size)
    assert larger.info.image_size == size
    assert larger.info.macs == profile(larger.module, {"x": torch.empty(1, 3, size, size)}).macs > model.info.macs
    with torch.inference_mode():
        assert larger.module(torch.randn(2, 3, size, size)).shape == (2, len(model.info.classes))
        assert model.module(torch.randn(2, 3, size - patch, size - patch)).shape == (2, len(model.info.classes))
    assert resized(model, model.info.image_size) is model


def test_a_size_not_divisible_by_the_patch_size(small: Models) -> None:
    with pytest.raises(RecipeError, match="an image size of 15 is not divisible by the patch size 8: use 8 or 16"):
        resized(small("vit_tiny_patch16_224"), 15)


def test_dynamic_size_equals_fixed_sizes(small: Models) -> None:
    model = small("deit_tiny_distilled_patch16_224")
    sizes = [model.info.image_size, 2 * model.info.image_size]
    images = [torch.randn(2, 3, size, size) for size in sizes]
    with torch.inference_mode():
        expected = [resized(model, size).module(batch) for size, batch in zip(sizes, images, strict=True)]
        model.architecture.allow_dynamic_size(model.module)
        for batch, logits in zip(images, expected, strict=True):
            torch.testing.assert_close(model.module(batch), logits, atol=1e-5, rtol=1e-5)


def test_beit_supports_only_one_size(small: Models) -> None:
    with pytest.raises(UnsupportedModel, match="support only one image size"):
        check_sizes(small("beit_base_patch16_224"), (16, 32), dynamic=True)


def test_dynamic_size_needs_a_newer_timm(small: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "__version__", "1.0.30")
    model = small("vit_tiny_patch16_224")
    check_sizes(model, (16,), dynamic=False)
    with pytest.raises(MissingDependency, match=r"timm 1\.0\.31 or newer; 1\.0\.30 is installed"):
        check_sizes(model, (16, 32), dynamic=True)
