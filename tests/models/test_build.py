"""Models are built from timm's names, arguments and weights, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch

from toolkit import recipe
from toolkit.errors import RecipeError, WeightsError
from toolkit.models.build import build
from toolkit.models.model import Model
from toolkit.preprocessing import Preprocessing
from toolkit.records import Setting

CLASSES = ("cat", "dog", "emu")
ARGS: dict[str, Setting] = {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
Build = Callable[..., Model]


def settings(
    args: dict[str, Setting] | None = None, name: str = "vit_tiny_patch16_224", weights: str = "none"
) -> recipe.Model:
    return recipe.Model(name=name, weights=weights, image_size=16, args={**ARGS, **(args or {})})


def test_a_built_model() -> None:
    model = build(settings(), CLASSES, seed=0)
    assert model.fresh == ()
    assert not model.module.training
    assert model.info.args == {**ARGS, "img_size": 16}
    assert model.info.image_size == 16
    assert model.info.classes == CLASSES
    timms = Preprocessing((0.5,) * 3, (0.5,) * 3, "bicubic", 1.0, "squash", "timm's vit_tiny_patch16_224")
    assert model.info.preprocessing == timms
    assert model.info.parameters == sum(parameter.numel() for parameter in model.module.parameters())
    assert model.module(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


def test_the_seed_determines_the_weights_and_keeps_the_global_rng() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (build(settings(), CLASSES, seed).module.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(
    "args",
    [{"pos_embed": "x"}, {"act_layer": "nosuch"}, {"embed_layer": "nosuch"}],
    ids=str,
)
def test_arguments_that_timm_cannot_build(args: dict[str, Setting]) -> None:
    ((argument, value),) = args.items()
    with pytest.raises(RecipeError, match=f"timm cannot build vit_tiny_patch16_224 with {argument}={value!r}"):
        build(settings(args), CLASSES, seed=0)


@pytest.mark.parametrize(
    ("name", "argument", "closest"),
    [("vit_tiny_patch16_224", "heads", "num_heads"), ("beit_base_patch16_224", "init_value", "init_values")],
)
def test_an_unknown_argument_gets_a_suggestion(name: str, argument: str, closest: str) -> None:
    with pytest.raises(RecipeError, match=rf"{name} has no argument '{argument}'\ndid you mean {closest}"):
        build(settings({argument: 1}, name), CLASSES, seed=0)


def test_a_model_that_does_not_fit_into_memory() -> None:
    with pytest.raises(RecipeError, match=r"mlp_ratio=\S+ .*too large for this machine"):
        build(settings({"mlp_ratio": 1e12}), CLASSES, seed=0)


def hub(classes: int, error: Exception | None = None) -> Callable[..., torch.nn.Module]:
    """Replacement for `timm.create_model` whose hub weights are random, or whose download fails."""
    real = timm.create_model

    def create(name: str, pretrained: bool = False, **arguments: Any) -> torch.nn.Module:
        if pretrained and error is not None:
            raise error
        return real(name, pretrained=False, **arguments)

    return create


def test_a_failed_download_of_hub_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", hub(1000, OSError("no route to host")))
    with pytest.raises(WeightsError, match=r"could not be downloaded from \S+\n.*--weights") as caught:
        build(settings(weights="hub"), CLASSES, seed=0)
    assert "no route" not in caught.value.message
    assert "no route" in str(caught.value.__cause__)
    with pytest.raises(RecipeError, match="nope"):
        build(settings({"nope": 1}, weights="hub"), CLASSES, seed=0)


def test_a_model_without_weights_in_timm() -> None:
    with pytest.raises(WeightsError, match=r"timm has no weights for vit_base_patch32_plus_256\n.*--weights"):
        build(settings(name="vit_base_patch32_plus_256", weights="hub"), CLASSES, seed=0)


def fake_download(monkeypatch: pytest.MonkeyPatch, **args: Setting) -> None:
    """Make timm download weights of its default architecture, shrunk unless `args` say otherwise."""
    small = {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3, "img_size": 16, **args}
    state = timm.create_model("vit_tiny_patch16_224", **small).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state))


def test_hub_weights_of_other_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_download(monkeypatch, embed_dim=48)
    with pytest.raises(WeightsError, match=r"vit_tiny_patch16_224 do not match a model with .*embed_dim=24"):
        build(settings(weights="hub"), CLASSES, seed=0)


@pytest.mark.parametrize(
    ("args", "message"),
    [({"init_values": 0.1}, r"blocks\.0\.ls1\.gamma.* would be random"), ({"num_heads": 4}, "another number of heads")],
)
def test_hub_weights_that_leave_parameters_random_are_refused(
    args: dict[str, Setting], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_download(monkeypatch)
    with pytest.raises(WeightsError, match=message):
        build(settings(args, weights="hub"), CLASSES, seed=0)


def test_unused_hub_weights_are_reported(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    fake_download(monkeypatch)
    assert build(settings(weights="hub"), CLASSES, seed=0).fresh == ("head.weight", "head.bias")
    assert "blocks.2.norm1.weight" in caplog.text


def test_hub_weights_for_other_classes_keep_a_new_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", hub(1000))
    model = build(settings(name="deit_tiny_distilled_patch16_224", weights="hub"), CLASSES, seed=0)
    assert model.fresh == ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")
    thousand = tuple(f"class {number}" for number in range(1000))
    assert build(settings(name="deit_tiny_distilled_patch16_224", weights="hub"), thousand, seed=0).fresh == ()
