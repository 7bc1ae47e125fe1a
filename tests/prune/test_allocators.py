"""Every scope meets its budget and respects its terms; what tells the scopes apart is as documented."""

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
from toolkit.prune.allocators import Terms, allocator
from toolkit.prune.budget import Budget, Quantity
from toolkit.prune.spending import check_reachable, ratio_of, spend
from toolkit.records import Axis, Cut

SCOPES = plugins.names("toolkit.prune.allocators")
ALL: tuple[Axis, ...] = ("block", "head", "qk", "v", "mlp", "embed")
Make = Callable[..., Terms]


@pytest.fixture(scope="module")
def terms(small: Callable[..., Model]) -> Make:
    """`terms(axes, round_to)` of a model of 3 blocks, 3 heads of 32 units, 384 MLP units and 96 channels."""
    model = small(depth=3, embed_dim=96, mlp_ratio=4.0)

    def make(axes: Sequence[Axis] = ("head", "mlp", "embed"), round_to: int = 1) -> Terms:
        return Terms(model.groups.along(axes), model.cost_model, round_to)

    return make


def random_scores(groups: Groups, seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return {group.key: torch.rand(group.units, generator=generator, dtype=torch.float64) for group in groups}


def allocate(scope: str, scores: Scores, budget: Budget, given: Terms) -> tuple[Cut, ...]:
    return spend(allocator(scope).pools(scores, given), budget, given)


def left(budget: Budget, cuts: tuple[Cut, ...], terms: Terms, everything: Groups) -> float:
    return budget.left(terms.cost.after_removing(Selection(everything, cuts).removed), terms.cost.dense)


def share_of(cuts: tuple[Cut, ...], groups: Groups) -> dict[tuple[str, str], float]:
    removed = {(cut.place, cut.axis): len(cut.units) for cut in cuts}
    return {group.key: removed.get(group.key, 0) / group.units for group in groups}


def test_the_scopes_there_are() -> None:
    assert SCOPES == ["global", "isomorphic", "local"]
    with pytest.raises(UnknownName, match="did you mean global"):
        allocator("globl")


@given(
    share=st.floats(0.25, 0.95),
    seed=st.integers(0, 99),
    axes=st.sampled_from([("mlp", "embed"), ("head", "mlp", "embed"), ("qk", "v", "mlp", "embed"), ALL]),
)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@pytest.mark.parametrize("quantity", ["macs", "params"])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_budget_is_met_within_a_percent_from_below(
    terms: Make, scope: str, quantity: Quantity, share: float, seed: int, axes: tuple[Axis, ...]
) -> None:
    given, budget = terms(axes), Budget(quantity, share)
    cuts = allocate(scope, random_scores(given.groups, seed), budget, given)
    assert 0.99 * share <= left(budget, cuts, given, terms(ALL).groups) <= share


@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_ratio_is_met_up_to_rounding_and_widths_are_round(
    terms: Make, scope: str, ratio: float, round_to: int
) -> None:
    given = terms(("qk", "mlp", "embed"), round_to)
    cuts = allocate(scope, random_scores(given.groups), Budget("ratio", ratio), given)
    removed = sum(len(cut.units) for cut in cuts)
    pools = {"global": 1, "isomorphic": 3, "local": 3 * 3 + 3 + 1}[scope]
    asked = ratio * sum(group.units for group in given.groups)
    assert asked - pools * round_to < removed <= asked
    for group in given.groups:
        gone = next((cut.units for cut in cuts if (cut.place, cut.axis) == group.key), ())
        first = 0
        for size in group.segments:
            kept = size - sum(first <= unit < first + size for unit in gone)
            assert kept > 0
            assert kept % round_to == 0
            first += size


def test_the_share_of_a_plan_written_out(terms: Make) -> None:
    """One head and 32 queries with it, two more queries, one MLP unit; then one block of 3 heads and 384 MLP units."""
    attention = (
        Cut("blocks.0.attn", "head", (1,)),
        Cut("blocks.0.attn", "qk", (0, 1, 32)),
        Cut("blocks.1.mlp", "mlp", (5,)),
    )
    assert ratio_of(attention, terms(("head", "qk", "mlp")).groups) == (1 + 2 + 1) / (9 + 3 * 96 + 3 * 384 - 32)
    block = Cut("blocks", "block", (2,)), Cut("blocks.2.mlp", "mlp", (0,)), Cut("blocks.0.mlp", "mlp", (0,))
    assert ratio_of(block, terms(("block", "head", "mlp")).groups) == (1 + 1) / (3 + 9 + 3 * 384 - 3 - 384)


@pytest.mark.parametrize("ratio", [0.34, 0.5])
@pytest.mark.parametrize("scope", SCOPES)
def test_what_goes_with_a_head_is_not_counted_again(terms: Make, scope: str, ratio: float) -> None:
    """Of the heads that stay, queries and values lose the share too; the mean width says whether they do."""
    given = terms(("head", "qk", "v"))
    scores = random_scores(given.groups)
    cuts = allocate(scope, scores, Budget("ratio", ratio), given)
    kept = Selection(terms(ALL).groups, cuts)
    heads = sum(len(kept.layout(f"blocks.{block}.attn").heads) for block in range(3))
    widths = [width for block in range(3) for head in kept.layout(f"blocks.{block}.attn").heads for width in head]
    living = 9 + 2 * 32 * heads
    gone = 9 - heads + 2 * 32 * heads - sum(widths)
    assert ratio_of(cuts, given.groups) == gone / living
    assert ratio - 0.03 < gone / living <= ratio
    if scope != "global":  # there a head competes with single units
        assert heads == (5 if (scope, ratio) == ("isomorphic", 0.5) else 6)
        assert 32 * (1 - ratio) <= sum(widths) / len(widths) < 32 * (1 - ratio) + 1


@pytest.mark.parametrize("scope", SCOPES)
def test_every_layer_keeps_something_at_the_extreme(terms: Make, scope: str) -> None:
    given = terms(ALL)
    cuts = allocate(scope, random_scores(given.groups), Budget("ratio", 0.99), given)
    Selection(terms(ALL).groups, cuts)  # refuses a plan that leaves a layer empty
    assert ratio_of(cuts, given.groups) > 0.9


def leaning(groups: Groups) -> Scores:
    """Units of deeper blocks matter more, and those of MLPs more than channels, by far."""
    scores = random_scores(groups)
    for place, axis in scores:
        if axis == "mlp":
            scores[place, axis] += 100.0 * int(place.split(".")[1])
        scores[place, axis] *= {"mlp": 1000.0}.get(axis, 1.0)
    return scores


def test_local_takes_the_same_share_of_every_layer(terms: Make) -> None:
    given = terms(("mlp", "embed"))
    cuts = allocate("local", leaning(given.groups), Budget("ratio", 0.5), given)
    assert set(share_of(cuts, given.groups).values()) == {0.5}


def test_isomorphic_takes_the_same_share_of_every_kind_and_the_weakest_of_it(terms: Make) -> None:
    given = terms(("mlp", "embed"))
    shares = share_of(allocate("isomorphic", leaning(given.groups), Budget("ratio", 0.5), given), given.groups)
    assert shares["residual", "embed"] == 0.5
    mlp = [shares[f"blocks.{block}.mlp", "mlp"] for block in range(3)]
    assert mlp == [383 / 384, pytest.approx(193 / 384), 0]  # every layer keeps a unit
    assert sum(mlp) == pytest.approx(1.5)


def test_global_weighs_kinds_against_each_other_by_their_mean(terms: Make) -> None:
    """Scaling all scores of a group changes nothing; a group of even importance loses less than one with many weak."""
    given = terms(("mlp", "embed"))
    scores = random_scores(given.groups)
    scores["residual", "embed"] = torch.ones(96, dtype=torch.float64)
    scores["blocks.0.mlp", "mlp"] = torch.cat([torch.full((300,), 0.01), torch.full((84,), 5.0)]).double()
    cuts = allocate("global", scores, Budget("ratio", 0.4), given)
    shares = share_of(cuts, given.groups)
    assert shares["residual", "embed"] == 0
    assert shares["blocks.0.mlp", "mlp"] == 300 / 384
    scaled = {key: values * (1 + 7 * number) for number, (key, values) in enumerate(scores.items())}
    assert allocate("global", scaled, Budget("ratio", 0.4), given) == cuts


def test_isomorphic_and_local_keep_all_kinds_in_step_on_a_macs_budget(terms: Make) -> None:
    given = terms(("mlp", "embed"))
    for scope in ("local", "isomorphic"):
        cuts = allocate(scope, random_scores(given.groups), Budget("macs", 0.4), given)
        shares = share_of(cuts, given.groups)
        mlp = sum(shares[f"blocks.{block}.mlp", "mlp"] for block in range(3)) / 3
        assert shares["residual", "embed"] == pytest.approx(mlp, abs=0.02)


@pytest.mark.parametrize(
    ("axes", "round_to", "asked"),
    [(("head",), 1, 0.1), (("mlp",), 8, 0.05), (("head",), 1, 0.98), (("mlp", "embed"), 64, 0.5)],
)
@pytest.mark.parametrize("scope", SCOPES)
def test_an_unreachable_budget_names_one_that_can_be_met(
    terms: Make, scope: str, axes: tuple[Axis, ...], round_to: int, asked: float
) -> None:
    given = terms(axes, round_to)
    scores = random_scores(given.groups)
    with pytest.raises(BudgetError, match="cannot be met: the closest that can is") as caught:
        allocate(scope, scores, Budget("macs", asked), given)
    offered = re.search(r"can is macs=([\d.]+)", caught.value.message)
    assert offered
    closest = Budget("macs", float(offered[1]))
    assert 0 < closest.share < 1
    cuts = allocate(scope, scores, closest, given)
    assert 0.99 * closest.share <= left(closest, cuts, given, terms(ALL).groups) <= closest.share


@pytest.mark.parametrize("scope", SCOPES)
def test_a_ratio_that_removes_nothing_is_an_error(terms: Make, scope: str) -> None:
    given = terms(("head",))
    with pytest.raises(BudgetError, match="removes nothing"):
        allocate(scope, random_scores(given.groups), Budget("ratio", 0.05), given)


@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_to_spare_is_an_error(terms: Make, scope: str) -> None:
    given = terms(("embed",), 96)
    with pytest.raises(BudgetError, match="no layer has units to spare"):
        allocate(scope, random_scores(given.groups), Budget("macs", 0.5), given)


@pytest.mark.parametrize("scope", SCOPES)
def test_scores_that_are_no_numbers_are_an_error(terms: Make, scope: str) -> None:
    given = terms(("mlp",))
    scores = random_scores(given.groups)
    scores["blocks.1.mlp", "mlp"][5] = float("nan")
    with pytest.raises(CheckFailed, match="not finite"):
        allocate(scope, scores, Budget("macs", 0.8), given)


@pytest.mark.parametrize("scope", SCOPES)
def test_what_is_out_of_reach_is_known_before_any_score(terms: Make, scope: str) -> None:
    """With the very words of the allocation that would fail."""
    given, budget = terms(), Budget("macs", 0.001)
    with pytest.raises(BudgetError, match="the closest that can is macs=") as early:
        check_reachable(allocator(scope), budget, given, steps=3)
    with pytest.raises(BudgetError) as late:
        allocate(scope, random_scores(given.groups), budget, given)
    assert str(early.value) == str(late.value)
    for reachable in (Budget("macs", 0.5), Budget("ratio", 0.99)):
        check_reachable(allocator(scope), reachable, given, steps=1)


@pytest.mark.parametrize("axes", [("head",), ("mlp",), ("head", "mlp")], ids=str)
@pytest.mark.parametrize("scope", SCOPES)
def test_where_scores_decide_nothing_the_outcome_is_known_before_any(
    terms: Make, axes: tuple[Axis, ...], scope: str
) -> None:
    given, known = terms(axes, 64), 0
    for budget in [Budget("macs", share / 20) for share in range(1, 20)] + [Budget("ratio", 0.01)]:
        early, late = [], []
        for seed in range(3):
            try:
                allocate(scope, random_scores(given.groups, seed), budget, given)
                late.append("")
            except BudgetError as error:
                late.append(str(error))
        try:
            check_reachable(allocator(scope), budget, given, steps=1)
        except BudgetError as error:
            early.append(str(error))
            known += 1
        assert not early or set(late) == set(early)
        if len(axes) == 1 or scope != "global":
            assert early or set(late) == {""}, "a refusal that could have been known"
    assert known


def test_rounds_offer_nothing_that_they_might_not_meet(terms: Make) -> None:
    given = terms(("head",))
    gone = replace(given, gone=frozenset({(("blocks.0.attn", "head"), 0)}))
    scores = random_scores(given.groups)
    scores["blocks.0.attn", "head"][0] = torch.nan
    one, two = (given.cost.after(given.cost.cells((("blocks.0.attn", "head"), n) for n in range(k))) for k in (1, 2))
    between = Budget("macs", (one.macs + two.macs) / 2 / given.cost.dense.macs)
    with pytest.raises(BudgetError, match=r"is not met in rounds: the closest that they come to is macs=.*\n.*--steps"):
        allocate("isomorphic", scores, between, gone)


@pytest.mark.parametrize("scope", SCOPES)
def test_partway_comes_near_and_never_refuses(scope: str, terms: Make) -> None:
    """Three heads a layer: a sixth of them is less than one, and no single head meets a budget within 1 %."""
    strict = terms(("head",))
    near = replace(strict, partway=True)
    scores = {group.key: torch.arange(1.0, 1.0 + group.units, dtype=torch.float64) for group in strict.groups}
    for budget in (Budget("ratio", 0.1), Budget("macs", 0.99)):
        with pytest.raises(BudgetError):
            allocate(scope, scores, budget, strict)
        cuts = allocate(scope, scores, budget, near)
        if cuts:
            left = strict.cost.after_removing(Selection(strict.groups, cuts).removed)
            assert left.macs >= budget.share * strict.cost.dense.macs
