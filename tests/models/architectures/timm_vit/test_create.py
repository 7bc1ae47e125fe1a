"""Names of timm's models: the supported ones, and suggestions for the others."""

from __future__ import annotations

import re

import pytest

from toolkit import recipe
from toolkit.errors import UnknownName, UnsupportedModel
from toolkit.models.architectures.timm_vit.create import check_name, known_models
from toolkit.models.build import build, outline

CLASSES = ("cat", "dog", "emu")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_22", "beit_base_patch16_224.nosuch"])
def test_an_unknown_model_gets_a_suggestion(name: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown model .*\ndid you mean"):
        build(recipe.Model(name=name, weights="none"), CLASSES, seed=0)


@pytest.mark.parametrize(
    "name",
    [
        *("vit_base_patch16_xp", "vit_base_patch16_siglip", "beit3_base"),
        pytest.param("aimv2_1b_patch14_22", marks=pytest.mark.slow),
    ],
)
def test_only_prunable_models_are_suggested(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        check_name(name)
    suggestions = caught.value.known
    assert 0 < len(suggestions) <= 3
    for model in suggestions:
        outline(recipe.Model(name=model), CLASSES)


def test_no_tags_are_suggested_for_an_unsupported_model() -> None:
    with pytest.raises(UnknownName) as caught:
        check_name("beit3_base_patch16_224.nosuch")
    assert caught.value.hint == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "resnet18 is not a ViT, DeiT or BEiT"),
        ("swin_tiny_patch4_window7_224.ms_in1k", "swin_tiny_patch4_window7_224.ms_in1k is not a ViT, DeiT or BEiT"),
        ("no-such", "timm has no ViT, DeiT or BEiT called 'no-such'"),
    ],
)
def test_models_of_other_families(name: str, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"{message}, and only those can be pruned\\n") as caught:
        check_name(name)
    examples = [word for word in re.findall(r"\w+", caught.value.hint) if word in known_models()]
    assert len(examples) == 4
    for model in examples:
        outline(recipe.Model(name=model), CLASSES)


def test_known_models_are_vit_deit_and_beit() -> None:
    known = known_models()
    assert {"vit_base_patch16_224", "deit_tiny_distilled_patch16_224", "beitv2_base_patch16_224"} <= set(known)
    assert not any(name.startswith(("swin", "resnet")) for name in known)
