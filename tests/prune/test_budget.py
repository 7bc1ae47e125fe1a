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


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("latency=4ms", 4.0),
        ("latency=0.25s", 250.0),
        ("latency=1500us", 1.5),
        ("latency=1e3 µs", 1.0),
        ("latency=.5ms", 0.5),
    ],
)
def test_a_latency(text: str, milliseconds: float) -> None:
    budget = budget_of(recipe.Prune(budget=text))
    assert (budget.quantity, budget.milliseconds) == ("latency", pytest.approx(milliseconds))
    assert budget.limit(dense=100.0) == pytest.approx(milliseconds)
    assert str(budget) == f"latency={milliseconds:g}ms"


def test_a_fraction_of_the_latency() -> None:
    budget = budget_of(recipe.Prune(budget="latency=0.5"))
    assert (budget, str(budget), budget.limit(dense=30.0)) == (Budget("latency", 0.5), "latency=0.5", 15.0)


@pytest.mark.parametrize("text", ["latency=4m", "latency=4 sec", "latency=4Ms", "latency=-4ms", "latency=1h"])
def test_an_invalid_latency(text: str) -> None:
    with pytest.raises(RecipeError, match=r"unknown unit|is not a latency between|needs a fraction"):
        budget_of(recipe.Prune(budget=text))


def test_remaining_fraction() -> None:
    dense, cost = Cost(parameters=100, macs=1000), Cost(parameters=25, macs=500)
    assert Budget("macs", 0.5).remaining(cost, dense) == 0.5
    assert Budget("params", 0.5).remaining(cost, dense) == 0.25
