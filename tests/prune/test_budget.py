"""Budgets in a recipe."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from toolkit import recipe
from toolkit.errors import RecipeError
from toolkit.models.profile import Cost
from toolkit.prune.budget import Budget, budget_of


def test_budget_of_a_recipe() -> None:
    assert budget_of(recipe.Prune()) == Budget("macs", 0.5)
    assert budget_of(recipe.Prune(ratio=0.75)) == Budget("ratio", 0.75)
    assert budget_of(recipe.Prune(budget="params=0.3")) == Budget("params", 0.3)
    assert str(budget_of(recipe.Prune(budget="macs=0.50"))) == "macs=0.5"


@pytest.mark.parametrize(
    "text", ["macs", "macs=", "macs=half", "macs=0", "macs=1", "macs=-0.5", "macs=nan", "macs=50%"]
)
def test_an_invalid_fraction_is_an_error(text: str) -> None:
    with pytest.raises(RecipeError, match=r"needs a fraction between 0 and 1\nfor example macs=0.5"):
        budget_of(recipe.Prune(budget=text))


@pytest.mark.parametrize(
    ("text", "message"), [("mac=0.5", "did you mean macs"), ("ratio=0.5", "unknown budget 'ratio'")]
)
def test_an_unknown_quantity_is_an_error(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        budget_of(recipe.Prune(budget=text))


@pytest.mark.parametrize("ratio", [0, 1, -1, 1.5])
def test_a_ratio_outside_0_to_1_is_an_error(ratio: float) -> None:
    with pytest.raises(ValidationError):
        recipe.Prune(ratio=ratio)


def test_remaining_fraction() -> None:
    dense, cost = Cost(parameters=100, macs=1000), Cost(parameters=25, macs=500)
    assert Budget("macs", 0.5).remaining(cost, dense) == 0.5
    assert Budget("params", 0.5).remaining(cost, dense) == 0.25
