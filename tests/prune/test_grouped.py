"""Method `grouped`: plans achieve the requested budget, in one and in several steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from toolkit import plugins
from toolkit.errors import BudgetError, UnknownName
from toolkit.models import model as model_module
from toolkit.models.dependency_graph import find_groups
from toolkit.models.groups import Groups, Unit
from toolkit.models.model import Model
from toolkit.models.profile import profile
from toolkit.models.surgery import Removal, remove
from toolkit.prune.methods import Job, method
from toolkit.prune.methods import grouped as grouped_module
from toolkit.records import Axis, Cut

Jobs = Callable[..., Job]
SCOPES = plugins.names("toolkit.prune.scopes")


@pytest.fixture(scope="module")
def dense(small: Callable[..., Model]) -> Model:
    model = small(depth=3, embed_dim=48, mlp_ratio=4.0)
    return Model(model.module, replace(model.info, weights_sha256="ab" * 32))


@pytest.mark.each_choice
@pytest.mark.parametrize("criterion", plugins.names("toolkit.prune.criteria"))
@pytest.mark.parametrize("scope", SCOPES)
def test_one_step_achieves_the_budget(dense: Model, job: Jobs, criterion: str, scope: str) -> None:
    plan = method("grouped").prune(dense, job(criterion=criterion, scope=scope, budget="macs=0.5", round_to=1)).plan
    slim = remove(dense, plan.cuts).model.module
    assert plan.achieved == pytest.approx(profile(slim, {"x": torch.empty(1, 3, 16, 16)}).macs / dense.info.macs)
    assert 0.495 <= plan.achieved <= 0.5
    assert (plan.model_sha256, plan.method, plan.criterion) == ("ab" * 32, "grouped", criterion)
    assert (plan.scope, plan.budget, plan.seed) == (scope, "macs=0.5", 0)
    assert {cut.axis for cut in plan.cuts} <= {"head", "mlp", "embed"}


def test_every_models_dependency_graph_is_built_once(
    small: Callable[..., Model], job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pruning in three steps, removing, counting: the dense model, and two smaller models."""
    model = small(depth=3)
    traced: list[torch.nn.Module] = []

    def counted(module: torch.nn.Module, *more: Any) -> Groups:
        traced.append(module)
        return find_groups(module, *more)

    monkeypatch.setattr(model_module, "find_groups", counted)
    plan = method("grouped").prune(model, job(steps=3, budget="macs=0.5", round_to=1)).plan
    slim = remove(model, plan.cuts).model
    assert slim.with_current_info().info.macs < model.info.macs
    assert len(traced) == len(set(traced)) == 3
    assert slim.module not in traced


@pytest.mark.pairwise
@pytest.mark.parametrize("axes", [("mlp", "embed"), ("head", "mlp", "embed"), ("qk", "v", "mlp", "embed")], ids=str)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("steps", [2, 4])
def test_steps_extend_each_other_and_achieve_the_budget(
    dense: Model,
    job: Jobs,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    scope: str,
    axes: tuple[str, ...],
) -> None:
    cuts_by_step: list[tuple[Cut, ...]] = []

    def recorded(model: Model, cuts: tuple[Cut, ...]) -> Removal:
        cuts_by_step.append(cuts)
        return remove(model, cuts)

    monkeypatch.setattr(grouped_module, "remove", recorded)
    several = job(criterion="taylor", scope=scope, budget="params=0.4", steps=steps, axes=axes, round_to=1)
    plan = method("grouped").prune(dense, several).plan
    assert 0.396 <= plan.achieved <= 0.4
    cuts_by_step.append(plan.cuts)
    assert len(cuts_by_step) == steps
    for before, after in pairwise(cuts_by_step):
        later = {(cut.place, cut.axis): set(cut.units) for cut in after}
        for cut in before:
            assert set(cut.units) <= later[cut.place, cut.axis]


@pytest.mark.each_choice
@pytest.mark.parametrize(
    "case",
    [
        (3, ("head", "qk", "v", "mlp"), {"ratio": 0.5}),
        (3, ("block", "head", "mlp"), {"ratio": 0.5}),
        (2, ("block", "mlp"), {"ratio": 0.75}),
        (3, ("head", "qk", "v", "mlp"), {"budget": "macs=0.5"}),
        (3, ("block", "head", "mlp"), {"budget": "macs=0.45"}),
        (3, ("block", "mlp"), {"budget": "params=0.5"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [4, 8])
@pytest.mark.parametrize("scope", SCOPES)
def test_units_removed_by_a_step_stay_removed(
    small: Callable[..., Model],
    job: Jobs,
    monkeypatch: pytest.MonkeyPatch,
    scope: str,
    steps: int,
    case: tuple[int, tuple[Axis, ...], dict[str, Any]],
) -> None:
    """Also for units inside removed heads and blocks, and down to a single block."""
    depth, axes, budget = case
    model, cuts_by_step = small(depth=depth, embed_dim=48, mlp_ratio=4.0), list[tuple[Cut, ...]]()
    groups = model.groups.along(axes)

    def recorded(model: Model, cuts: tuple[Cut, ...]) -> Removal:
        cuts_by_step.append(cuts)
        return remove(model, cuts)

    monkeypatch.setattr(grouped_module, "remove", recorded)
    plan = (
        method("grouped")
        .prune(model, job(criterion="magnitude-l2", scope=scope, steps=steps, axes=axes, round_to=1, **budget))
        .plan
    )
    removed = [
        {other for cut in cuts for unit in cut.units for other in with_contained(groups, cut, unit)}
        for cuts in (*cuts_by_step, plan.cuts)
    ]
    assert len(removed) >= 2
    for before, after in pairwise(removed):
        assert before <= after
    value = float(plan.budget.partition("=")[2])
    assert value - (0.1 if "ratio" in budget else 0.01 * value) <= plan.achieved <= value


def with_contained(groups: Groups, cut: Cut, unit: int) -> set[Unit]:
    this: Unit = ((cut.place, cut.axis), unit)
    return {this, *groups.contained_units(this)}


@pytest.mark.pairwise
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.95])
@pytest.mark.parametrize("scope", SCOPES)
def test_ratios_are_achieved_and_macs_counted_by_hand(
    dense: Model, job: Jobs, scope: str, ratio: float, steps: int
) -> None:
    prune = job(criterion="magnitude-l2", scope=scope, ratio=ratio, steps=steps, axes=("mlp", "embed"), round_to=1)
    plan = method("grouped").prune(dense, prune).plan
    units = 3 * 192 + 48
    assert ratio - 4 / units <= plan.achieved <= ratio
    assert sum(len(cut.units) for cut in plan.cuts) == round(plan.achieved * units)
    removed = {(cut.place, cut.axis): len(cut.units) for cut in plan.cuts}
    width = 48 - removed.get(("residual", "embed"), 0)
    hidden = [192 - removed.get((f"blocks.{block}.mlp", "mlp"), 0) for block in range(3)]
    by_hand = 4 * 192 * width + 3 * width  # 4 patches of 3 x 8 x 8, 3 classes
    for mlp in hidden:  # 5 tokens; 3 heads of 16, not pruned
        by_hand += 5 * width * 4 * 48 + 5 * 5 * 2 * 48 + 5 * 2 * width * mlp
    assert (
        profile(remove(dense, plan.cuts).model.module, {"x": torch.empty(1, 3, 16, 16)}).macs
        == by_hand
        < dense.info.macs
    )


@pytest.mark.parametrize("scope", SCOPES)
def test_a_last_step_that_removes_nothing_more_is_no_error(dense: Model, job: Jobs, scope: str) -> None:
    plans = [
        method("grouped")
        .prune(dense, job(criterion="magnitude-l1", scope=scope, ratio=0.99, steps=steps, round_to=24))
        .plan
        for steps in (1, 3)
    ]
    assert plans[0].achieved == plans[1].achieved > 0.3


def test_each_step_scores_the_remaining_model(dense: Model, job: Jobs) -> None:
    """Several steps select other units than one, and each step reports progress."""
    calls: list[tuple[int, int]] = []
    one = method("grouped").prune(dense, job(budget="macs=0.3", round_to=1)).plan
    several = replace(
        job(budget="macs=0.3", round_to=1, steps=3),
        progress=lambda done, total, message="": calls.append((done, total)),
    )
    three = method("grouped").prune(dense, several).plan
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert one.cuts != three.cuts


def test_the_same_job_gives_the_same_plan(dense: Model, job: Jobs) -> None:
    first, second = (method("grouped").prune(dense, job(criterion="hessian", round_to=1)).plan for _ in range(2))
    assert first == second


def test_a_slim_model_can_be_pruned_again(dense: Model, job: Jobs) -> None:
    plan = method("grouped").prune(dense, job(budget="macs=0.6", round_to=1)).plan
    slim = remove(dense, plan.cuts).model
    again = method("grouped").prune(slim, job(budget="macs=0.6", round_to=1, axes=("qk", "v", "mlp", "embed"))).plan
    remaining = profile(remove(slim, again.cuts).model.module, {"x": torch.empty(1, 3, 16, 16)}).macs
    assert remaining / dense.info.macs == pytest.approx(0.36, rel=0.02)


def test_unknown_names_get_a_suggestion(dense: Model, job: Jobs) -> None:
    with pytest.raises(UnknownName, match="did you mean grouped"):
        method("groupd")
    with pytest.raises(UnknownName, match="did you mean hessian"):
        method("grouped").prune(dense, job(criterion="hesian"))
    with pytest.raises(UnknownName, match="did you mean isomorphic"):
        method("grouped").prune(dense, job(scope="isomorfic"))


def test_an_unreachable_budget_is_an_error(dense: Model, job: Jobs) -> None:
    with pytest.raises(BudgetError, match="the closest achievable budget is params="):
        method("grouped").prune(dense, job(budget="params=0.01", axes=("head",)))
