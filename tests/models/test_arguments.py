"""Arguments of an architecture: what timm would take for something else, or refuse in its own words."""

from __future__ import annotations

import re

import pytest

from toolkit import recipe
from toolkit.errors import RecipeError
from toolkit.models.arguments import usual
from toolkit.models.build import build
from toolkit.records import Setting

VIT = "vit_tiny_patch16_224"


def build_with(args: dict[str, Setting]) -> None:
    small: dict[str, Setting] = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}
    build(recipe.Model(name=VIT, weights="none", image_size=16, args={**small, **args}), ("cat", "dog"), seed=0)


TIMMS = re.compile(r"divisible|Token pooling|probability has|is supported|invalid literal|unsupported operand")
WRONG: list[tuple[dict[str, Setting], str, str]] = [
    ({"num_heads": 5}, "a width of 24 (embed_dim) is not to be shared out among 5 heads", "1, 2, 3, 4, 6, 8, 12, 24"),
    ({"embed_dim": 65}, "a width of 65 (embed_dim) is not to be shared out among 3 heads", "be 1, 5, 13, 65"),
    ({"num_heads": 0}, "num_heads = 0: it should be at least 1", "itself has num_heads=3"),
    ({"num_heads": 2.0}, "num_heads = 2.0: it should be a whole number", "itself has num_heads=3"),
    ({"num_heads": True}, "num_heads = True: it should be a whole number", "itself has num_heads=3"),
    ({"embed_dim": "x"}, "embed_dim = 'x': it should be a whole number", "itself has embed_dim=192"),
    ({"patch_size": 0}, "patch_size = 0: it should be at least 1", "itself has patch_size=16"),
    ({"depth": "x"}, "depth = 'x': it should be a whole number", "itself has depth=12"),
    ({"mlp_ratio": 0}, "mlp_ratio = 0: it should be greater than 0", "itself has mlp_ratio=4.0"),
    ({"mlp_ratio": "x"}, "mlp_ratio = 'x': it should be a number", "itself has mlp_ratio=4.0"),
    ({"class_token": "x"}, "class_token = 'x': it should be true or false", ""),
    ({"class_token": 3}, "class_token = 3: it should be true or false", ""),
    ({"class_token": False}, "no token that global_pool=token could take", "--set model.args.global_pool=avg"),
    ({"qkv_bias": "no"}, "qkv_bias = 'no': it should be true or false", ""),
    ({"drop_rate": 2}, "drop_rate = 2: it should be at least 0 and less than 1", ""),
    ({"global_pool": "x"}, "global_pool = 'x': it should be one of '', 'avg'", "itself has global_pool=token"),
]


@pytest.mark.parametrize(("args", "said", "hint"), WRONG, ids=str)
def test_values_that_an_argument_cannot_have_are_refused_in_our_words(
    args: dict[str, Setting], said: str, hint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        build_with(args)
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert not TIMMS.search(str(caught.value))


def test_what_those_hints_name_is_taken() -> None:
    for args in ({"num_heads": 12}, {"embed_dim": 65, "num_heads": 13}, {"class_token": False, "global_pool": "avg"}):
        build_with(args)
    for argument, own in {"num_heads": 3, "embed_dim": 192, "depth": 12, "patch_size": 16, "mlp_ratio": 4.0}.items():
        assert usual("vit_tiny_patch16_224")[argument] == own
        assert usual("deit_tiny_patch16_224")[argument] == own
