"""Models that later stages do not support are refused when they are built, based on an excerpt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from toolkit import recipe
from toolkit.errors import RecipeError, UnsupportedModel, WeightsError
from toolkit.models.acceptance import check_supported, excerpt
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.block import blocks_of
from toolkit.models.build import build, outline
from toolkit.models.model import Model
from toolkit.records import Setting

Build = Callable[..., Model]
DISTILLED = "deit_tiny_distilled_patch16_224"
SMALL: dict[str, Setting] = {"patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 3}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"no_embed_class": True}, "timm builds it, but its forward pass fails"),
        ({"reg_tokens": 4}, "its logits do not depend on reg_token"),
        ({"fc_norm": True}, "its logits do not depend on fc_norm.weight"),
        ({"embed_dim": 1, "num_heads": 1}, "its logits are the same for all images"),
    ],
    ids=str,
)
def test_incompatible_arguments(args: dict[str, Setting], message: str) -> None:
    settings = recipe.Model(name=DISTILLED, image_size=16, args={**SMALL, **args})
    with pytest.raises(UnsupportedModel, match=rf"{DISTILLED} with these arguments cannot be used: {message}"):
        outline(settings, ("a", "b"))


def test_conflicting_image_sizes() -> None:
    settings = recipe.Model(name=DISTILLED, weights="none", image_size=16, args={**SMALL, "img_size": 32})
    with pytest.raises(RecipeError, match=r"model\.image_size is 16, model\.args\.img_size is 32"):
        build(settings, ("a", "b"), seed=0)


class AlwaysNan(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.nan


@pytest.mark.parametrize(
    ("place", "part", "message"),
    [
        ("blocks.1.mlp.act", nn.Softmax(dim=-1), "pruning along mlp is not exact: .* differ"),
        ("blocks.1.mlp.act", AlwaysNan(), "its logits for a random image are not finite"),
        ("fc_norm", nn.Unflatten(1, (1, -1)), r"its output has shape \[1, 1, 3\], not \[1, classes\]"),
    ],
    ids=str,
)
def test_unsupported_modules(small: Build, place: str, part: nn.Module, message: str) -> None:
    model = small(depth=2)
    model.module.set_submodule(place, part)
    with pytest.raises(UnsupportedModel, match=message):
        check_supported(model)


def test_weights_whose_activations_overflow(tmp_path: Path) -> None:
    settings = recipe.Model(name=DISTILLED, weights="none", image_size=16, args=SMALL)
    state = {name: tensor * 1e30 for name, tensor in build(settings, ("a", "b"), seed=0).module.state_dict().items()}
    save_file(state, tmp_path / "huge.safetensors")
    with pytest.raises(
        WeightsError, match=f"with these weights {DISTILLED} outputs NaN or infinity for a random image"
    ):
        build(settings.model_copy(update={"weights": str(tmp_path / "huge.safetensors")}), ("a", "b"), seed=0)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", DISTILLED, "beit_base_patch16_224"])
def test_an_outline_has_the_info_and_shapes_of_the_model(name: str) -> None:
    settings = recipe.Model(name=name, weights="none", image_size=32, args=SMALL)
    shapes, model = outline(settings, ("a", "b", "c")), build(settings, ("a", "b", "c"), seed=0)
    assert shapes.info == model.info
    assert {name: tensor.shape for name, tensor in shapes.module.state_dict().items()} == {
        name: tensor.shape for name, tensor in model.module.state_dict().items()
    }
    assert all(parameter.is_meta for parameter in shapes.module.parameters())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_an_excerpt_has_the_first_and_the_last_block(small: Build, name: str) -> None:
    model = small(name, depth=4)
    module = model.module
    for index, block in enumerate(blocks_of(module)):
        attention = block.get_submodule("attn")
        assert isinstance(attention, HeadwiseAttention)
        attention.scale = float(index)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    sample = excerpt(model)
    assert [block.get_submodule("attn").scale for block in blocks_of(sample.module)] == [0.0, 3.0]
    assert sample.module(torch.zeros(2, 3, sample.info.image_size, sample.info.image_size)).shape == (2, 3)
    assert all((parameter != 0).all() for parameter in sample.module.parameters())
    assert len(blocks_of(module)) == 4
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


class OnlyInTraining(nn.Module):
    """Active only in training mode, like dropout."""

    def __init__(self, value: float | None) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        if self.value is None:
            raise RuntimeError("not for training")
        return x * self.value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.nan, "the loss or a gradient of a training step is not finite"),
        (None, "its forward pass works, but a training step fails"),
    ],
)
def test_a_module_that_fails_in_training(small: Build, value: float | None, message: str) -> None:
    model = small(depth=2)
    model.module.set_submodule("blocks.1.drop_path1", OnlyInTraining(value))
    before = torch.random.get_rng_state()
    with pytest.raises(UnsupportedModel, match=message):
        check_supported(model)
    assert torch.equal(torch.random.get_rng_state(), before)


RATES = ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, "at least 0 and less than 1"), (-0.1, "at least 0 and less than 1"), (True, "a number"), ("half", "a number")],
)
def test_drop_rates_must_be_below_one(rate: str, value: Setting, expected: str) -> None:
    settings = recipe.Model(name="vit_tiny_patch16_224", image_size=16, args={**SMALL, rate: value})
    with pytest.raises(RecipeError, match=rf"model\.args\.{rate} = {value!r}: it should be {expected}"):
        outline(settings, ("a", "b"))


@pytest.mark.parametrize("rate", RATES)
def test_high_drop_rates_are_accepted(rate: str) -> None:
    settings = recipe.Model(name="vit_tiny_patch16_224", image_size=16, args={**SMALL, rate: 0.99})
    assert outline(settings, ("a", "b")).info.args[rate] == 0.99


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (0, "it should be greater than 0"),
        (0.01, "MLPs would have no units, as embed_dim is 24"),
        (-0.01, "it should be greater than 0"),
    ],
)
def test_an_mlp_must_have_units(ratio: float, message: str) -> None:
    """timm would silently use as many as the model has channels."""
    settings = recipe.Model(name="vit_tiny_patch16_224", image_size=16, args={**SMALL, "mlp_ratio": ratio})
    with pytest.raises(RecipeError, match=rf"mlp_ratio = {ratio}: {message}"):
        outline(settings, ("a", "b"))
