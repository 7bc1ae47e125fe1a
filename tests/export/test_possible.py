"""What no target could hold is found out before the model is trained, on an excerpt of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from toolkit import plugins, recipe
from toolkit.errors import RecipeError, UnsupportedModel
from toolkit.export import rewrite
from toolkit.export.possible import check_possible
from toolkit.models.build import outline
from toolkit.models.model import Model
from toolkit.records import Setting

NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
TARGETS = [name for name in plugins.names("toolkit.export") if name != "tensorrt"]


def outline_of(name: str, **more: Setting) -> Model:
    args = {"patch_size": 8, "depth": 4, "embed_dim": 48, "num_heads": 3, **more}
    return outline(recipe.Model(name=name, image_size=64, args=args), ("a", "b"))


@pytest.mark.parametrize("name", NAMES)
def test_every_target_is_possible(name: str) -> None:
    model = outline_of(name)
    for target in TARGETS:
        check_possible(target, model, recipe.Export())
        check_possible(target, model, recipe.Export(input="uint8", image_size=(48,), batch_size=(4,)))
    if not name.startswith("beit"):
        check_possible("onnx", model, recipe.Export(image_size=(32, 64, 96)))
    assert all(parameter.is_meta for parameter in model.module.parameters())


@pytest.mark.parametrize(
    ("kind", "options", "error", "said"),
    [
        (
            "onnx",
            {"image_size": (60,)},
            RecipeError,
            "an image size of 60 is not divisible by the patch size 8: use 56 or 64",
        ),
        ("onnx", {"image_size": (32, 64, 90)}, RecipeError, "an image size of 90 is not divisible by the patch size 8"),
        ("openvino", {"image_size": (32, 64, 96)}, RecipeError, "openvino takes images of one size only"),
        ("onnx", {"attention": "standard", "opset": 20}, RecipeError, "opset 20 has no Attention node"),
    ],
)
def test_what_a_target_cannot_hold(kind: str, options: dict[str, object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        check_possible(kind, outline_of(NAMES[0]), recipe.Export.model_validate(options))


def test_a_model_that_is_not_the_same_when_it_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: nn.Module) -> int:
        with torch.no_grad():
            module.get_parameter("head.weight").mul_(1.01)
        return 1

    monkeypatch.setitem(rewrite.REWRITES, "norms", wrong)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModel, match="onnx cannot hold this model: the exported model's logits differ"):
        check_possible("onnx", outline_of(NAMES[0]), recipe.Export())
