"""Scopes: all achieve the budget within the constraints; each distributes it as documented."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolkit import plugins
from toolkit.errors import BudgetError, CheckFailed, UnknownName
from toolkit.models.groups import Groups, Scores
from toolkit.models.model import Model
from toolkit.models.selection import Selection
from toolkit.prune.budget import Budget, Quantity
from toolkit.prune.fill_budget import check_reachable, fill_budget, ratio_of
from toolkit.prune.scopes import Constraints, scope
from toolkit.records import Axis, Cut

SCOPES = plugins.names("toolkit.prune.scopes")
ALL: tuple[Axis, ...] = ("block", "head", "qk", "v", "mlp", "embed")
MakeConstraints = Callable[..., Constraints]


@pytest.fixture(scope="module")
def constrain(small: Callable[..., Model]) -> MakeConstraints:
    """`constrain(axes, round_to)` for a model of 3 blocks, 3 heads of 32 units, 384 MLP units and 96 channels."""
    model = small(depth=3, embed_dim=96, mlp_ratio=4.0)

    def make(axes: Sequence[Axis] = ("head", "mlp", "embed"), round_to: int = 1) -> Constraints:
        return Constraints(model.groups.along(axes), model.cost_model, round_to)

    return make


def random_scores(groups: Groups, seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return {group.key: torch.rand(group.units, generator=generator, dtype=torch.float64) for group in groups}


def prune(name: str, scores: Scores, budget: Budget, constraints: Constraints) -> tuple[Cut, ...]:
    return fill_budget(scope(name).pools(scores, constraints), budget, constraints)


def remaining(budget: Budget, cuts: tuple[Cut, ...], constraints: Constraints, all_groups: Groups) -> float:
    cost = constraints.cost
    return budget.remaining(cost.after_removing(Selection(all_groups, cuts).removed), cost.dense)


def removed_fractions(cuts: tuple[Cut, ...], groups: Groups) -> dict[tuple[str, str], float]:
    removed = {(cut.place, cut.axis): len(cut.units) for cut in cuts}
    return {group.key: removed.get(group.key, 0) / group.units for group in groups}


def test_available_scopes() -> None:
    assert SCOPES == ["global", "isomorphic", "local"]
    with pytest.raises(UnknownName, match="did you mean global"):
        scope("globl")


@given(
    fraction=st.floats(0.25, 0.95),
    seed=st.integers(0, 99),
    axes=st.sampled_from([("mlp", "embed"), ("head", "mlp", "embed"), ("qk", "v", "mlp", "embed"), ALL]),
)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@pytest.mark.parametrize("quantity", ["macs", "params"])
@pytest.mark.parametrize("name", SCOPES)
def test_a_cost_budget_is_achieved_within_one_percent_from_below(
    constrain: MakeConstraints, name: str, quantity: Quantity, fraction: float, seed: int, axes: tuple[Axis, ...]
) -> None:
    constraints, budget = constrain(axes), Budget(quantity, fraction)
    cuts = prune(name, random_scores(constraints.groups, seed), budget, constraints)
    assert 0.99 * fraction <= remaining(budget, cuts, constraints, constrain(ALL).groups) <= fraction


@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("name", SCOPES)
def test_a_ratio_is_achieved_up_to_rounding_and_widths_are_multiples(
    constrain: MakeConstraints, name: str, ratio: float, round_to: int
) -> None:
    constraints = constrain(("qk", "mlp", "embed"), round_to)
    cuts = prune(name, random_scores(constraints.groups), Budget("ratio", ratio), constraints)
    removed = sum(len(cut.units) for cut in cuts)
    pools = {"global": 1, "isomorphic": 3, "local": 3 * 3 + 3 + 1}[name]
    requested = ratio * sum(group.units for group in constraints.groups)
    assert requested - pools * round_to < removed <= requested
    for group in constraints.groups:
        removed_units = next((cut.units for cut in cuts if (cut.place, cut.axis) == group.key), ())
        first = 0
        for size in group.segments:
            kept = size - sum(first <= unit < first + size for unit in removed_units)
            assert kept > 0
            assert kept % round_to == 0
            first += size


def test_the_ratio_of_a_plan_computed_by_hand(constrain: MakeConstraints) -> None:
    """A head with its 32 qk units, two more qk units, an MLP unit; then a block of 3 heads and 384 MLP units."""
    attention = (
        Cut("blocks.0.attn", "head", (1,)),
        Cut("blocks.0.attn", "qk", (0, 1, 32)),
        Cut("blocks.1.mlp", "mlp", (5,)),
    )
    assert ratio_of(attention, constrain(("head", "qk", "mlp")).groups) == (1 + 2 + 1) / (9 + 3 * 96 + 3 * 384 - 32)
    block = Cut("blocks", "block", (2,)), Cut("blocks.2.mlp", "mlp", (0,)), Cut("blocks.0.mlp", "mlp", (0,))
    assert ratio_of(block, constrain(("block", "head", "mlp")).groups) == (1 + 1) / (3 + 9 + 3 * 384 - 3 - 384)


@pytest.mark.parametrize("ratio", [0.34, 0.5])
@pytest.mark.parametrize("name", SCOPES)
def test_units_inside_a_removed_head_are_not_counted(constrain: MakeConstraints, name: str, ratio: float) -> None:
    """The qk and v units of the remaining heads lose the same fraction, as their mean width shows."""
    constraints = constrain(("head", "qk", "v"))
    scores = random_scores(constraints.groups)
    cuts = prune(name, scores, Budget("ratio", ratio), constraints)
    kept = Selection(constrain(ALL).groups, cuts)
    heads = sum(len(kept.layout(f"blocks.{block}.attn").heads) for block in range(3))
    widths = [width for block in range(3) for head in kept.layout(f"blocks.{block}.attn").heads for width in head]
    counted = 9 + 2 * 32 * heads
    lost = 9 - heads + 2 * 32 * heads - sum(widths)
    assert ratio_of(cuts, constraints.groups) == lost / counted
    assert ratio - 0.03 < lost / counted <= ratio
    if name != "global":  # there, heads compete with single units
        assert heads == (5 if (name, ratio) == ("isomorphic", 0.5) else 6)
        assert 32 * (1 - ratio) <= sum(widths) / len(widths) < 32 * (1 - ratio) + 1


@pytest.mark.parametrize("name", SCOPES)
def test_every_layer_keeps_units_at_an_extreme_ratio(constrain: MakeConstraints, name: str) -> None:
    constraints = constrain(ALL)
    cuts = prune(name, random_scores(constraints.groups), Budget("ratio", 0.99), constraints)
    Selection(constrain(ALL).groups, cuts)  # raises for a plan that leaves a layer empty
    assert ratio_of(cuts, constraints.groups) > 0.9


def skewed_scores(groups: Groups) -> Scores:
    """Scores that grow with depth, and are far larger for MLPs than for residual channels."""
    scores = random_scores(groups)
    for place, axis in scores:
        if axis == "mlp":
            scores[place, axis] += 100.0 * int(place.split(".")[1])
        scores[place, axis] *= {"mlp": 1000.0}.get(axis, 1.0)
    return scores


def test_local_removes_the_same_fraction_of_every_layer(constrain: MakeConstraints) -> None:
    constraints = constrain(("mlp", "embed"))
    cuts = prune("local", skewed_scores(constraints.groups), Budget("ratio", 0.5), constraints)
    assert set(removed_fractions(cuts, constraints.groups).values()) == {0.5}


def test_isomorphic_removes_the_same_fraction_of_every_axis_and_its_least_important_units(
    constrain: MakeConstraints,
) -> None:
    constraints = constrain(("mlp", "embed"))
    cuts = prune("isomorphic", skewed_scores(constraints.groups), Budget("ratio", 0.5), constraints)
    fractions = removed_fractions(cuts, constraints.groups)
    assert fractions["residual", "embed"] == 0.5
    mlp = [fractions[f"blocks.{block}.mlp", "mlp"] for block in range(3)]
    assert mlp == [383 / 384, pytest.approx(193 / 384), 0]  # every layer keeps a unit
    assert sum(mlp) == pytest.approx(1.5)


def test_global_normalises_groups_by_their_mean(constrain: MakeConstraints) -> None:
    """Scaling a group's scores changes nothing; equally important units survive longer than the weakest of a group."""
    constraints = constrain(("mlp", "embed"))
    scores = random_scores(constraints.groups)
    scores["residual", "embed"] = torch.ones(96, dtype=torch.float64)
    scores["blocks.0.mlp", "mlp"] = torch.cat([torch.full((300,), 0.01), torch.full((84,), 5.0)]).double()
    cuts = prune("global", scores, Budget("ratio", 0.4), constraints)
    fractions = removed_fractions(cuts, constraints.groups)
    assert fractions["residual", "embed"] == 0
    assert fractions["blocks.0.mlp", "mlp"] == 300 / 384
    scaled = {key: values * (1 + 7 * number) for number, (key, values) in enumerate(scores.items())}
    assert prune("global", scaled, Budget("ratio", 0.4), constraints) == cuts


def test_isomorphic_and_local_prune_all_axes_at_the_same_pace_on_a_macs_budget(constrain: MakeConstraints) -> None:
    constraints = constrain(("mlp", "embed"))
    for name in ("local", "isomorphic"):
        cuts = prune(name, random_scores(constraints.groups), Budget("macs", 0.4), constraints)
        fractions = removed_fractions(cuts, constraints.groups)
        mlp = sum(fractions[f"blocks.{block}.mlp", "mlp"] for block in range(3)) / 3
        assert fractions["residual", "embed"] == pytest.approx(mlp, abs=0.02)


@pytest.mark.parametrize(
    ("axes", "round_to", "fraction"),
    [(("head",), 1, 0.1), (("mlp",), 8, 0.05), (("head",), 1, 0.98), (("mlp", "embed"), 64, 0.5)],
)
@pytest.mark.parametrize("name", SCOPES)
def test_an_unreachable_budget_suggests_an_achievable_one(
    constrain: MakeConstraints, name: str, axes: tuple[Axis, ...], round_to: int, fraction: float
) -> None:
    constraints = constrain(axes, round_to)
    scores = random_scores(constraints.groups)
    with pytest.raises(BudgetError, match="cannot be achieved: the closest achievable budget is") as caught:
        prune(name, scores, Budget("macs", fraction), constraints)
    suggested = re.search(r"budget is macs=([\d.]+)", caught.value.message)
    assert suggested
    closest = Budget("macs", float(suggested[1]))
    assert 0 < closest.fraction < 1
    cuts = prune(name, scores, closest, constraints)
    assert 0.99 * closest.fraction <= remaining(closest, cuts, constraints, constrain(ALL).groups) <= closest.fraction


@pytest.mark.parametrize("name", SCOPES)
def test_a_ratio_that_removes_nothing_is_an_error(constrain: MakeConstraints, name: str) -> None:
    constraints = constrain(("head",))
    with pytest.raises(BudgetError, match="removes nothing"):
        prune(name, random_scores(constraints.groups), Budget("ratio", 0.05), constraints)


@pytest.mark.parametrize("name", SCOPES)
def test_no_removable_units_is_an_error(constrain: MakeConstraints, name: str) -> None:
    constraints = constrain(("embed",), 96)
    with pytest.raises(BudgetError, match="no layer has removable units"):
        prune(name, random_scores(constraints.groups), Budget("macs", 0.5), constraints)


@pytest.mark.parametrize("name", SCOPES)
def test_non_finite_scores_are_an_error(constrain: MakeConstraints, name: str) -> None:
    constraints = constrain(("mlp",))
    scores = random_scores(constraints.groups)
    scores["blocks.1.mlp", "mlp"][5] = float("nan")
    with pytest.raises(CheckFailed, match="not finite"):
        prune(name, scores, Budget("macs", 0.8), constraints)


@pytest.mark.parametrize("name", SCOPES)
def test_an_unreachable_budget_is_an_error_before_scoring(constrain: MakeConstraints, name: str) -> None:
    """The message is that of the allocation that would fail."""
    constraints, budget = constrain(), Budget("macs", 0.001)
    with pytest.raises(BudgetError, match="the closest achievable budget is macs=") as early:
        check_reachable(scope(name), budget, constraints, steps=3)
    with pytest.raises(BudgetError) as late:
        prune(name, random_scores(constraints.groups), budget, constraints)
    assert str(early.value) == str(late.value)
    for reachable in (Budget("macs", 0.5), Budget("ratio", 0.99)):
        check_reachable(scope(name), reachable, constraints, steps=1)


@pytest.mark.parametrize("axes", [("head",), ("mlp",), ("head", "mlp")], ids=str)
@pytest.mark.parametrize("name", SCOPES)
def test_a_budget_that_fails_for_any_scores_is_an_error_before_scoring(
    constrain: MakeConstraints, axes: tuple[Axis, ...], name: str
) -> None:
    constraints, errors = constrain(axes, 64), 0
    for budget in [Budget("macs", fraction / 20) for fraction in range(1, 20)] + [Budget("ratio", 0.01)]:
        early, late = [], []
        for seed in range(3):
            try:
                prune(name, random_scores(constraints.groups, seed), budget, constraints)
                late.append("")
            except BudgetError as error:
                late.append(str(error))
        try:
            check_reachable(scope(name), budget, constraints, steps=1)
        except BudgetError as error:
            early.append(str(error))
            errors += 1
        assert not early or set(late) == set(early)
        if len(axes) == 1 or name != "global":
            assert early or set(late) == {""}, "the error does not depend on the scores"
    assert errors


def test_after_earlier_steps_the_closest_result_is_not_called_achievable(constrain: MakeConstraints) -> None:
    constraints = constrain(("head",))
    second_step = replace(constraints, removed=frozenset({(("blocks.0.attn", "head"), 0)}))
    scores = random_scores(constraints.groups)
    scores["blocks.0.attn", "head"][0] = torch.nan
    one, two = (
        constraints.cost.after(constraints.cost.cells((("blocks.0.attn", "head"), n) for n in range(k))) for k in (1, 2)
    )
    between = Budget("macs", (one.macs + two.macs) / 2 / constraints.cost.dense.macs)
    with pytest.raises(
        BudgetError, match=r"cannot be achieved in several steps: the closest result is macs=.*\n.*--steps"
    ):
        prune("isomorphic", scores, between, second_step)


@pytest.mark.parametrize("name", SCOPES)
def test_steps_before_the_last_get_close_and_never_raise(name: str, constrain: MakeConstraints) -> None:
    """With three heads per layer, the ratio is less than one head, and no single head is within 1 % of the budget."""
    last = constrain(("head",))
    earlier = replace(last, final=False)
    scores = {group.key: torch.arange(1.0, 1.0 + group.units, dtype=torch.float64) for group in last.groups}
    for budget in (Budget("ratio", 0.1), Budget("macs", 0.99)):
        with pytest.raises(BudgetError):
            prune(name, scores, budget, last)
        if cuts := prune(name, scores, budget, earlier):
            cost = last.cost.after_removing(Selection(last.groups, cuts).removed)
            assert cost.macs >= budget.fraction * last.cost.dense.macs
