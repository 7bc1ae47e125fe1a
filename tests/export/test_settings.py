"""What a target cannot hold is said before anything is made, with the reason and what to do."""

from __future__ import annotations

import pytest

from toolkit import recipe
from toolkit.errors import RecipeError
from toolkit.export import Abilities
from toolkit.export.choices import Choices, choices

ABLE = Abilities(
    precisions=("fp32", "bf16"),
    opsets=(17, 20),
    opset=18,
    attention=("standard", "decomposed"),
    at_load=("bf16",),
    fused_heads=(8, 16),
    lacking={"int8": "it cannot count", "custom": "it knows no functions"},
)


def test_what_the_recipe_leaves_open_is_the_targets() -> None:
    assert choices("it", ABLE, recipe.Export()) == Choices(
        18, "decomposed", "fp32", False, "fp32", None, True, 1, False
    )
    assert choices("it", ABLE, recipe.Export(precision="bf16")).precision == "fp32"


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"precision": "int8"}, "it has no int8: it cannot count", "it has fp32, bf16 (--precision)"),
        ({"precision": "fp16"}, "it has no fp16: it is not made for it", "it has fp32, bf16 (--precision)"),
        ({"opset": 23}, "it reads no opset 23", "it reads 17 to 20 (--opset)"),
        ({"attention": "custom"}, "it does not run custom attention: it knows no functions", "(--attention)"),
        ({"attention": "standard"}, "opset 18 has no Attention node", "--opset 23, or --attention decomposed"),
    ],
    ids=str,
)
def test_what_it_cannot_hold(options: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        choices("it", ABLE, recipe.Export.model_validate(options))
    assert caught.value.message == message
    assert hint in caught.value.hint
