"""What a later stage could not take is found in an excerpt of the model, and said when the model is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from toolkit import recipe
from toolkit.errors import RecipeError, UnsupportedModel, WeightsError
from toolkit.models.acceptance import accept, excerpt
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.build import build, outline
from toolkit.models.model import Model
from toolkit.models.shapes import blocks_of
from toolkit.records import Setting

Build = Callable[..., Model]
DISTILLED = "deit_tiny_distilled_patch16_224"
SMALL: dict[str, Setting] = {"patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 3}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"no_embed_class": True}, "timm builds it, but no image passes through it"),
        ({"reg_tokens": 4}, "its logits do not depend on reg_token"),
        ({"fc_norm": True}, "its logits do not depend on fc_norm.weight"),
        ({"embed_dim": 1, "num_heads": 1}, "its logits are the same for all images"),
    ],
    ids=str,
)
def test_arguments_that_do_not_go_together(more: dict[str, Setting], said: str) -> None:
    settings = recipe.Model(name=DISTILLED, image_size=16, args={**SMALL, **more})
    with pytest.raises(UnsupportedModel, match=rf"{DISTILLED} as it is asked for cannot be used: {said}"):
        outline(settings, ("a", "b"))


def test_two_image_sizes() -> None:
    settings = recipe.Model(name=DISTILLED, weights="none", image_size=16, args={**SMALL, "img_size": 32})
    with pytest.raises(RecipeError, match=r"model\.image_size is 16, img_size of model\.args is 32"):
        build(settings, ("a", "b"), seed=0)


class Never(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.nan


@pytest.mark.parametrize(
    ("place", "part", "said"),
    [
        ("blocks.1.mlp.act", nn.Softmax(dim=-1), "a cut along mlp is not exact: .* differ"),
        ("blocks.1.mlp.act", Never(), "its logits for a random image are not finite"),
        ("fc_norm", nn.Unflatten(1, (1, -1)), r"for an image it gives \[1, 1, 3\] numbers, not one for each class"),
    ],
    ids=str,
)
def test_a_part_that_no_later_stage_could_take(small: Build, place: str, part: nn.Module, said: str) -> None:
    model = small(depth=2)
    model.module.set_submodule(place, part)
    with pytest.raises(UnsupportedModel, match=said):
        accept(model)


def test_finite_weights_that_overflow(tmp_path: Path) -> None:
    settings = recipe.Model(name=DISTILLED, weights="none", image_size=16, args=SMALL)
    state = {name: tensor * 1e30 for name, tensor in build(settings, ("a", "b"), seed=0).module.state_dict().items()}
    save_file(state, tmp_path / "huge.safetensors")
    with pytest.raises(WeightsError, match=f"with these weights {DISTILLED} gives numbers that are not finite"):
        build(settings.model_copy(update={"weights": str(tmp_path / "huge.safetensors")}), ("a", "b"), seed=0)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", DISTILLED, "beit_base_patch16_224"])
def test_an_outline_is_the_model_without_its_numbers(name: str) -> None:
    settings = recipe.Model(name=name, weights="none", image_size=32, args=SMALL)
    shapes, model = outline(settings, ("a", "b", "c")), build(settings, ("a", "b", "c"), seed=0)
    assert shapes.info == model.info
    assert {name: tensor.shape for name, tensor in shapes.module.state_dict().items()} == {
        name: tensor.shape for name, tensor in model.module.state_dict().items()
    }
    assert all(parameter.is_meta for parameter in shapes.module.parameters())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_an_excerpt_is_of_the_first_and_the_last_block(small: Build, name: str) -> None:
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
    """Acts in training alone, as what drops at random does."""

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
    ("value", "said"),
    [
        (torch.nan, "the loss or a gradient of a step of training is not finite"),
        (None, "it answers for images, but no step of training is possible"),
    ],
)
def test_a_part_that_cannot_be_trained(small: Build, value: float | None, said: str) -> None:
    module = small(depth=2).module
    module.set_submodule("blocks.1.drop_path1", OnlyInTraining(value))
    before = torch.random.get_rng_state()
    with pytest.raises(UnsupportedModel, match=said):
        accept(module, "it")
    assert torch.equal(torch.random.get_rng_state(), before)


RATES = ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    ("value", "wanted"),
    [(1, "at least 0 and less than 1"), (-0.1, "at least 0 and less than 1"), (True, "a number"), ("half", "a number")],
)
def test_a_share_that_is_dropped_is_less_than_one(rate: str, value: Setting, wanted: str) -> None:
    settings = recipe.Model(name="vit_tiny_patch16_224", image_size=16, args={**SMALL, rate: value})
    with pytest.raises(RecipeError, match=rf"model\.args\.{rate} = {value!r}: it should be {wanted}"):
        outline(settings, ("a", "b"))


@pytest.mark.parametrize("rate", RATES)
def test_nearly_all_may_be_dropped(rate: str) -> None:
    settings = recipe.Model(name="vit_tiny_patch16_224", image_size=16, args={**SMALL, rate: 0.99})
    assert outline(settings, ("a", "b")).info.args[rate] == 0.99


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (0, "it should be greater than 0"),
        (0.01, "with it MLPs have no units, in a model of 24 chan"),
        (-0.01, "it should be greater than 0"),
    ],
)
def test_an_mlp_has_units(ratio: float, said: str) -> None:
    """timm would give it as many as the model has channels."""
    settings = recipe.Model(name="vit_tiny_patch16_224", image_size=16, args={**SMALL, "mlp_ratio": ratio})
    with pytest.raises(RecipeError, match=rf"mlp_ratio = {ratio}: {said}"):
        outline(settings, ("a", "b"))
