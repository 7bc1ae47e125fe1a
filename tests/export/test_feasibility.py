"""Models and settings that cannot be exported are refused before training, on an excerpt of the model."""

from __future__ import annotations

import pytest
import torch

from toolkit import plugins, recipe
from toolkit.errors import RecipeError, UnsupportedModel
from toolkit.export import rewrite
from toolkit.export.feasibility import check_feasible
from toolkit.models.build import outline
from toolkit.models.model import Model
from toolkit.records import Setting

NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
TARGETS = [name for name in plugins.names("toolkit.export") if name != "tensorrt"]


def outline_of(name: str, **arguments: Setting) -> Model:
    args = {"patch_size": 8, "depth": 4, "embed_dim": 48, "num_heads": 3, **arguments}
    return outline(recipe.Model(name=name, image_size=64, args=args), ("a", "b"))


@pytest.mark.parametrize("name", NAMES)
def test_every_target_is_feasible(name: str) -> None:
    model = outline_of(name)
    for target in TARGETS:
        check_feasible(target, model, recipe.Export())
        check_feasible(target, model, recipe.Export(input="uint8", image_size=(48,), batch_size=(4,)))
    if not name.startswith("beit"):
        check_feasible("onnx", model, recipe.Export(image_size=(32, 64, 96)))
    assert all(parameter.is_meta for parameter in model.module.parameters())


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        (
            "onnx",
            {"image_size": (60,)},
            RecipeError,
            "an image size of 60 is not divisible by the patch size 8: use 56 or 64",
        ),
        ("onnx", {"image_size": (32, 64, 90)}, RecipeError, "an image size of 90 is not divisible by the patch size 8"),
        ("openvino", {"image_size": (32, 64, 96)}, RecipeError, "openvino supports fixed image sizes only"),
        ("onnx", {"attention": "standard", "onnx": {"opset": 20}}, RecipeError, "opset 20 has no Attention node"),
    ],
)
def test_unsupported_settings_are_refused(
    target: str, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_feasible(target, outline_of(NAMES[0]), recipe.Export.model_validate(options))


def test_a_rewritten_model_with_other_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: Model) -> int:
        with torch.no_grad():
            model.module.get_parameter("head.weight").mul_(1.01)
        return 1

    monkeypatch.setitem(rewrite.REWRITES, "norms", wrong)  # type: ignore[arg-type]
    message = "this model cannot be exported to onnx: the logits of the exported model differ"
    with pytest.raises(UnsupportedModel, match=message):
        check_feasible("onnx", outline_of(NAMES[0]), recipe.Export())
