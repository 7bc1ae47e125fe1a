"""The method `grouped`: plans that meet what was asked, at once and in rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from toolkit import plugins
from toolkit.errors import BudgetError, UnknownName
from toolkit.models.groups import Groups, Unit
from toolkit.models.model import Model
from toolkit.models.profile import profile
from toolkit.models.surgery import Removal, remove
from toolkit.prune.methods import Job, method
from toolkit.prune.methods import grouped as grouped_module
from toolkit.records import Axis, Cut

Jobs = Callable[..., Job]
SCOPES = plugins.names("toolkit.prune.allocators")


@pytest.fixture(scope="module")
def dense(small: Callable[..., Model]) -> Model:
    model = small(depth=3, embed_dim=48, mlp_ratio=4.0)
    return Model(model.module, replace(model.info, weights_sha256="ab" * 32))


@pytest.mark.each_choice
@pytest.mark.parametrize("criterion", plugins.names("toolkit.prune.criteria"))
@pytest.mark.parametrize("scope", SCOPES)
def test_one_shot(dense: Model, job: Jobs, criterion: str, scope: str) -> None:
    plan = method("grouped").prune(dense, job(criterion=criterion, scope=scope, budget="macs=0.5", round_to=1))
    slim = remove(dense, plan.cuts).model.module
    assert plan.met == pytest.approx(profile(slim, 16).macs / dense.info.macs)
    assert 0.495 <= plan.met <= 0.5
    assert (plan.model_sha256, plan.method, plan.criterion) == ("ab" * 32, "grouped", criterion)
    assert (plan.scope, plan.budget, plan.seed) == (scope, "macs=0.5", 0)
    assert {cut.axis for cut in plan.cuts} <= {"head", "mlp", "embed"}


@pytest.mark.pairwise
@pytest.mark.parametrize("axes", [("mlp", "embed"), ("head", "mlp", "embed"), ("qk", "v", "mlp", "embed")], ids=str)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("steps", [2, 4])
def test_rounds_nest_and_meet_the_budget(
    dense: Model,
    job: Jobs,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    scope: str,
    axes: tuple[str, ...],
) -> None:
    rounds: list[tuple[Cut, ...]] = []

    def recorded(model: Model, cuts: tuple[Cut, ...]) -> Removal:
        rounds.append(cuts)
        return remove(model, cuts)

    monkeypatch.setattr(grouped_module, "remove", recorded)
    asked = job(criterion="taylor", scope=scope, budget="params=0.4", steps=steps, axes=axes, round_to=1)
    plan = method("grouped").prune(dense, asked)
    assert 0.396 <= plan.met <= 0.4
    rounds.append(plan.cuts)
    assert len(rounds) == steps
    for before, after in pairwise(rounds):
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
def test_what_a_round_has_removed_stays_removed(
    small: Callable[..., Model],
    job: Jobs,
    monkeypatch: pytest.MonkeyPatch,
    scope: str,
    steps: int,
    case: tuple[int, tuple[Axis, ...], dict[str, Any]],
) -> None:
    """Heads and blocks with what is in them, down to a single block."""
    depth, axes, asked = case
    model, rounds = small(depth=depth, embed_dim=48, mlp_ratio=4.0), list[tuple[Cut, ...]]()
    groups = model.groups.along(axes)

    def recorded(model: Model, cuts: tuple[Cut, ...]) -> Removal:
        rounds.append(cuts)
        return remove(model, cuts)

    monkeypatch.setattr(grouped_module, "remove", recorded)
    plan = method("grouped").prune(
        model, job(criterion="magnitude-l2", scope=scope, steps=steps, axes=axes, round_to=1, **asked)
    )
    gone = [
        {other for cut in cuts for unit in cut.units for other in with_inside(groups, cut, unit)}
        for cuts in (*rounds, plan.cuts)
    ]
    assert len(gone) >= 2
    for before, after in pairwise(gone):
        assert before <= after
    share = float(plan.budget.partition("=")[2])
    assert share - (0.1 if "ratio" in asked else 0.01 * share) <= plan.met <= share


def with_inside(groups: Groups, cut: Cut, unit: int) -> set[Unit]:
    one: Unit = ((cut.place, cut.axis), unit)
    return {one, *groups.contained_units(one)}


@pytest.mark.pairwise
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.95])
@pytest.mark.parametrize("scope", SCOPES)
def test_ratios(dense: Model, job: Jobs, scope: str, ratio: float, steps: int) -> None:
    asked = job(criterion="magnitude-l2", scope=scope, ratio=ratio, steps=steps, axes=("mlp", "embed"), round_to=1)
    plan = method("grouped").prune(dense, asked)
    units = 3 * 192 + 48
    assert ratio - 4 / units <= plan.met <= ratio
    assert sum(len(cut.units) for cut in plan.cuts) == round(plan.met * units)
    gone = {(cut.place, cut.axis): len(cut.units) for cut in plan.cuts}
    width = 48 - gone.get(("residual", "embed"), 0)
    hidden = [192 - gone.get((f"blocks.{block}.mlp", "mlp"), 0) for block in range(3)]
    by_hand = 4 * 192 * width + 3 * width  # 4 patches of 3 x 8 x 8, 3 classes
    for mlp in hidden:  # 5 tokens; 3 heads of 16 stay whole
        by_hand += 5 * width * 4 * 48 + 5 * 5 * 2 * 48 + 5 * 2 * width * mlp
    assert profile(remove(dense, plan.cuts).model.module, 16).macs == by_hand < dense.info.macs


@pytest.mark.parametrize("scope", SCOPES)
def test_a_last_round_with_nothing_left_to_remove_is_no_error(dense: Model, job: Jobs, scope: str) -> None:
    plans = [
        method("grouped").prune(dense, job(criterion="magnitude-l1", scope=scope, ratio=0.99, steps=steps, round_to=24))
        for steps in (1, 3)
    ]
    assert plans[0].met == plans[1].met > 0.3


def test_rounds_score_what_is_left(dense: Model, job: Jobs) -> None:
    """Several rounds choose other units than one, and each round is told."""
    told: list[tuple[int, int]] = []
    one = method("grouped").prune(dense, job(budget="macs=0.3", round_to=1))
    asked = replace(
        job(budget="macs=0.3", round_to=1, steps=3), report=lambda done, total, message="": told.append((done, total))
    )
    three = method("grouped").prune(dense, asked)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert one.cuts != three.cuts


def test_the_same_job_gives_the_same_plan(dense: Model, job: Jobs) -> None:
    first, second = (method("grouped").prune(dense, job(criterion="hessian", round_to=1)) for _ in range(2))
    assert first == second


def test_a_slim_model_is_pruned_further(dense: Model, job: Jobs) -> None:
    plan = method("grouped").prune(dense, job(budget="macs=0.6", round_to=1))
    slim = remove(dense, plan.cuts).model
    again = method("grouped").prune(slim, job(budget="macs=0.6", round_to=1, axes=("qk", "v", "mlp", "embed")))
    left = profile(remove(slim, again.cuts).model.module, 16).macs
    assert left / dense.info.macs == pytest.approx(0.36, rel=0.02)


def test_unknown_names(dense: Model, job: Jobs) -> None:
    with pytest.raises(UnknownName, match="did you mean grouped"):
        method("groupd")
    with pytest.raises(UnknownName, match="did you mean hessian"):
        method("grouped").prune(dense, job(criterion="hesian"))
    with pytest.raises(UnknownName, match="did you mean isomorphic"):
        method("grouped").prune(dense, job(scope="isomorfic"))


def test_a_budget_that_cannot_be_met(dense: Model, job: Jobs) -> None:
    with pytest.raises(BudgetError, match="the closest that can is params="):
        method("grouped").prune(dense, job(budget="params=0.01", axes=("head",)))
