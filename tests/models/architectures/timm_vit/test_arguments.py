"""Invalid arguments, which timm would misread or refuse with obscure messages."""

from __future__ import annotations

import re

import pytest

from toolkit import recipe
from toolkit.errors import RecipeError
from toolkit.models.architectures.timm_vit.arguments import default_arguments
from toolkit.models.build import build
from toolkit.records import Setting

VIT = "vit_tiny_patch16_224"


def build_with(args: dict[str, Setting]) -> None:
    small: dict[str, Setting] = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}
    build(recipe.Model(name=VIT, weights="none", image_size=16, args={**small, **args}), ("cat", "dog"), seed=0)


TIMM_MESSAGES = re.compile(
    r"should be divisible|Token pooling|probability has|is supported|invalid literal|unsupported operand"
)
WRONG: list[tuple[dict[str, Setting], str, str]] = [
    ({"num_heads": 5}, "embed_dim (24) is not divisible by num_heads (5)", "1, 2, 3, 4, 6, 8, 12, 24"),
    ({"embed_dim": 65}, "embed_dim (65) is not divisible by num_heads (3)", "be 1, 5, 13, 65"),
    ({"num_heads": 0}, "num_heads = 0: it should be at least 1", "num_heads=3"),
    ({"num_heads": 2.0}, "num_heads = 2.0: it should be a whole number", "num_heads=3"),
    ({"num_heads": True}, "num_heads = True: it should be a whole number", "num_heads=3"),
    ({"embed_dim": "x"}, "embed_dim = 'x': it should be a whole number", "embed_dim=192"),
    ({"patch_size": 0}, "patch_size = 0: it should be at least 1", "patch_size=16"),
    ({"depth": 0}, "depth = 0: it should be at least 1", "depth=12"),
    ({"depth": "x"}, "depth = 'x': it should be a whole number", "depth=12"),
    ({"mlp_ratio": 0}, "mlp_ratio = 0: it should be greater than 0", "mlp_ratio=4.0"),
    ({"mlp_ratio": "x"}, "mlp_ratio = 'x': it should be a number", "mlp_ratio=4.0"),
    ({"class_token": "x"}, "class_token = 'x': it should be true or false", ""),
    ({"class_token": 3}, "class_token = 3: it should be true or false", ""),
    ({"class_token": False}, "global_pool=token needs a class token", "--set model.args.global_pool=avg"),
    ({"qkv_bias": "no"}, "qkv_bias = 'no': it should be true or false", ""),
    ({"drop_rate": 2}, "drop_rate = 2: it should be at least 0 and less than 1", ""),
    ({"global_pool": "x"}, "global_pool = 'x': it should be one of '', 'avg'", "global_pool=token"),
]


@pytest.mark.parametrize(("args", "message", "hint"), WRONG, ids=str)
def test_invalid_arguments_are_refused_in_plain_words(args: dict[str, Setting], message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_with(args)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert not TIMM_MESSAGES.search(str(caught.value))


def test_suggested_arguments_are_accepted() -> None:
    for args in ({"num_heads": 12}, {"embed_dim": 65, "num_heads": 13}, {"class_token": False, "global_pool": "avg"}):
        build_with(args)
    defaults = {"num_heads": 3, "embed_dim": 192, "depth": 12, "patch_size": 16, "mlp_ratio": 4.0}
    for name in ("vit_tiny_patch16_224", "deit_tiny_patch16_224"):
        assert defaults.items() <= default_arguments(name).items()
