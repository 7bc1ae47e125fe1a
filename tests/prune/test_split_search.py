"""The split of a budget between heads and MLP units, against an enumeration, and for many budgets and models."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toolkit.errors import BudgetError, CheckFailed
from toolkit.models.groups import Groups, Scores, Unit
from toolkit.models.model import Model
from toolkit.models.profile import profile
from toolkit.models.surgery import remove
from toolkit.prune.budget import Budget
from toolkit.prune.scopes import Constraints
from toolkit.prune.split_search import best_split
from toolkit.records import Axis

BOTH: tuple[Axis, ...] = ("head", "mlp")
NAMES = ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"]


def random_scores(groups: Groups, seed: int) -> Scores:
    """Log-normal scores, larger for heads."""
    generator = torch.Generator().manual_seed(seed)
    return {
        group.key: torch.randn(group.units, generator=generator, dtype=torch.float64).exp()
        * (20 if group.axis == "head" else 1)
        for group in groups
    }


def enumerated(model: Model, scores: Scores, budget: Budget) -> tuple[float, frozenset[Unit]]:
    """Least removed importance, and the removed units: of all numbers of heads and of MLP units, the least important
    ones of each axis, without the best one of every layer."""
    ranked = {}
    for axis in BOTH:
        groups = [group for group in model.groups if group.axis == axis]
        spare = [
            (float(scores[group.key][unit]), (group.key, unit))
            for group in groups
            for unit in range(group.units)
            if unit != int(scores[group.key].argmax())
        ]
        ranked[axis] = sorted(spare)
    cost = model.cost_model
    best: tuple[float, frozenset[Unit]] = (float("inf"), frozenset())
    for heads, units in product(range(len(ranked["head"]) + 1), range(len(ranked["mlp"]) + 1)):
        gone = ranked["head"][:heads] + ranked["mlp"][:units]
        removed = frozenset(unit for _, unit in gone)
        remaining = budget.remaining(cost.after(cost.cells(removed)), cost.dense)
        if 0.99 * budget.fraction <= remaining <= budget.fraction:
            best = min(best, (sum(score for score, _ in gone), removed), key=lambda found: found[0])
    return best


@pytest.mark.parametrize("budget", [Budget("macs", 0.6), Budget("macs", 0.85), Budget("params", 0.7)], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_of_all_splits_is_found(small: Callable[..., Model], budget: Budget, seed: int) -> None:
    model = small(embed_dim=48, mlp_ratio=0.5)  # 6 heads, 48 MLP units
    groups = model.groups.along(BOTH)
    scores = random_scores(groups, seed)
    split = best_split(scores, budget, Constraints(groups, model.cost_model, round_to=1))
    importance, removed = enumerated(model, scores, budget)
    assert {((cut.place, cut.axis), unit) for cut in split.cuts for unit in cut.units} == removed
    assert split.removed_importance == pytest.approx(importance)


@settings(max_examples=30)
@given(
    name=st.sampled_from(NAMES),
    budget=st.builds(Budget, st.sampled_from(["macs", "params"]), st.floats(0.35, 0.95)),
    round_to=st.sampled_from([1, 2, 4]),
    axes=st.sampled_from([("head", "mlp"), ("mlp",)]),
    seed=st.integers(0, 9),
)
def test_budgets_are_met_from_below(
    models: dict[str, Model], name: str, budget: Budget, round_to: int, axes: tuple[Axis, ...], seed: int
) -> None:
    model = models[name]
    constraints = Constraints(model.groups.along(axes), model.cost_model, round_to)
    try:
        split = best_split(random_scores(constraints.groups, seed), budget, constraints)
    except BudgetError:
        assume(axes == ("head", "mlp"))  # the MLP alone may be too coarse, or too small
        raise
    assert 0.99 * budget.fraction <= split.remaining <= budget.fraction
    cost = profile(remove(model, split.cuts).model.module, model.example())
    assert split.remaining == pytest.approx(budget.remaining(cost, model.cost))
    for cut in split.cuts:
        kept = model.groups.find(cut.place, cut.axis).units - len(cut.units)
        assert kept >= 1 if cut.axis == "head" else kept >= round_to and kept % round_to == 0


@pytest.fixture(scope="module")
def models(small: Callable[..., Model]) -> dict[str, Model]:
    """Models of 3 blocks with 3 heads and 192 MLP units each, by name."""
    return {name: small(name, 3, embed_dim=48, mlp_ratio=4.0) for name in NAMES}


def test_a_budget_too_small_says_the_smallest(models: dict[str, Model]) -> None:
    model = models[NAMES[0]]
    constraints = Constraints(model.groups.along(BOTH), model.cost_model, 8)
    scores = random_scores(constraints.groups, 0)
    with pytest.raises(BudgetError, match="the closest achievable budget is macs=") as caught:
        best_split(scores, Budget("macs", 0.05), constraints)
    smallest = float(str(caught.value).split("macs=")[2].split("\n")[0])
    assert best_split(scores, Budget("macs", smallest), constraints).remaining == pytest.approx(smallest, rel=1e-3)


def test_heads_alone_are_too_coarse_for_some_budgets(models: dict[str, Model]) -> None:
    model = models[NAMES[0]]
    constraints = Constraints(model.groups.along(["head"]), model.cost_model, 8)
    scores = random_scores(constraints.groups, 0)
    with pytest.raises(BudgetError, match=r"cannot be met by removing heads and MLP units: the closest is macs=0\.9"):
        best_split(scores, Budget("macs", 0.999), constraints)


def test_scores_that_are_not_finite_are_refused(models: dict[str, Model]) -> None:
    model = models[NAMES[0]]
    constraints = Constraints(model.groups.along(BOTH), model.cost_model, 8)
    scores = random_scores(constraints.groups, 0)
    scores["blocks.0.mlp", "mlp"][3] = torch.nan
    with pytest.raises(CheckFailed, match=r"scores for mlp at 'blocks.0.mlp' are not finite"):
        best_split(scores, Budget("macs", 0.6), constraints)
