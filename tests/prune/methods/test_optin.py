"""Method `optin`: budgets, determinism, no labels, merged tokens, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import toolkit
from toolkit import recipe, records
from toolkit.dg.batches import Batch
from toolkit.errors import BadInput, BudgetError, CheckFailed, DataError, RecipeError, UnsupportedModel
from toolkit.models import store
from toolkit.models.groups import Scores
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.models.tokens import with_tokens
from toolkit.prune.budget import Budget, budget_of
from toolkit.prune.calibration import Calibration
from toolkit.prune.merge_ladder import Rung
from toolkit.prune.methods import Job, method
from toolkit.prune.methods.optin import best_on_ladder, drawn
from toolkit.prune.pruning import prune
from toolkit.prune.scopes import Constraints
from toolkit.prune.split_search import best_split
from toolkit.prune.trajectory import Comparison, exact_terms
from toolkit.records import Merge, PrunePlan

Jobs = Callable[..., Job]
SIZE = 32
IMAGES = torch.randn(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])


def job(labels: Tensor = LABELS, seed: int = 0, **settings: object) -> Job:
    calibration = Calibration(lambda _: [Batch(IMAGES, labels)], ("all",), seed)
    return Job(recipe.Prune.model_validate({"method": "optin", "round_to": 1, **settings}), calibration, seed)


@pytest.fixture(scope="module")
def dense(small: Callable[..., Model]) -> Model:
    return small(depth=4, image_size=SIZE, embed_dim=48, mlp_ratio=4.0).identified()


@pytest.mark.each_choice
@pytest.mark.parametrize("scores", ["fast", "exact"])
@pytest.mark.parametrize("budget", ["macs=0.6", "params=0.7", "macs=0.9"])
@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "beit_base_patch16_224", "vit_tiny_patch16_224"])
def test_pruning_meets_the_budget(small: Callable[..., Model], name: str, budget: str, scores: str) -> None:
    model = small(name, 3, SIZE, embed_dim=48, mlp_ratio=4.0).identified()
    pruned = prune(model, job(budget=budget, optin={"scores": scores}))
    asked = budget_of(recipe.Prune(budget=budget))
    actual = asked.remaining(pruned.slim.cost, model.cost)
    assert 0.99 * asked.fraction <= actual <= asked.fraction
    assert pruned.plan.achieved == pytest.approx(actual)
    assert (pruned.plan.method, pruned.plan.criterion) == ("optin", f"trajectory-{scores}")
    assert (pruned.plan.model_sha256, pruned.plan.budget) == (model.info.weights_sha256, budget)


def test_labels_do_not_matter_and_a_seed_gives_a_plan(dense: Model) -> None:
    plan = method("optin").prune(dense, job(budget="macs=0.7")).plan
    assert plan == method("optin").prune(dense, job(torch.full((6,), -1), budget="macs=0.7")).plan
    other = method("optin").prune(dense, job(seed=5, budget="macs=0.7")).plan
    assert other.seed == 5
    assert other.cuts != plan.cuts


def test_the_plan_has_the_least_removed_importance(dense: Model) -> None:
    """The units of the plan are those that the search chooses for literal scores."""
    settings = {"scores": "exact", "images": 6, "temperature": 2.0, "balance": 4.0}
    plan = method("optin").prune(dense, job(budget="macs=0.6")).plan
    own = job(budget="macs=0.6", optin=settings)
    exact = method("optin", own.settings.own("optin")).prune(dense, own).plan
    groups = dense.groups.along(("head", "mlp"))
    terms = exact_terms(dense, groups, drawn(own.calibration, 6), Comparison(768, 2.0, 0))
    split = best_split(terms.scores(terms.factor(4.0)), Budget("macs", 0.6), Constraints(groups, dense.cost_model, 1))
    assert exact.cuts == split.cuts
    removed = {(cut.place, unit) for cut in plan.cuts for unit in cut.units}
    removed_exactly = {(cut.place, unit) for cut in exact.cuts for unit in cut.units}
    assert len(removed & removed_exactly) > 0.8 * len(removed | removed_exactly), "fast is close to exact"


def test_merging_tokens_is_part_of_the_plan_and_of_the_budget(dense: Model, tmp_path: Path) -> None:
    own = job(budget="macs=0.6", optin={"tau": True, "merge_step": 2})
    pruned = prune(dense, own)
    assert pruned.plan.merges
    assert pruned.slim.info.merges == pruned.plan.merges
    assert pruned.source is dense
    actual = pruned.slim.cost.macs / dense.cost.macs
    assert pruned.plan.achieved == pytest.approx(actual)
    assert 0.594 <= actual <= 0.6
    without = prune(dense, job(budget="macs=0.6")).plan
    assert sum(len(cut.units) for cut in pruned.plan.cuts) < sum(len(cut.units) for cut in without.cuts)
    saved = pruned.slim.identified().save(tmp_path / "slim")
    loaded = store.load(tmp_path / "slim")
    assert loaded.info == saved.info
    assert torch.equal(loaded.module(IMAGES), pruned.slim.module.eval()(IMAGES))


def test_merging_alone_may_meet_the_budget(dense: Model) -> None:
    merges = (Merge(0, 11), Merge(1, 9))
    merging = with_tokens(dense, merges)
    fraction = merging.cost.macs / dense.cost.macs
    groups = dense.groups.along(("head", "mlp"))
    scores: Scores = {group.key: torch.ones(group.units, dtype=torch.float64) for group in groups}
    rungs = [Rung(dense, (), 0.0), Rung(merging, merges, 0.5)]
    constraints = Constraints(groups, dense.cost_model, 1)
    rung, split = best_on_ladder(rungs, scores, Budget("macs", fraction + 0.001), constraints)
    assert (rung.merges, split.cuts, split.remaining) == (merges, (), fraction)


def test_a_plan_of_merges_alone_is_applied(dense: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    own = job(budget="macs=0.6")
    outcome = method("optin").prune(dense, own)
    only_merges = replace(outcome, plan=replace(outcome.plan, cuts=(), merges=(Merge(1, 9),)))
    monkeypatch.setattr(type(method("optin")), "prune", lambda *_: only_merges)
    for compensation in ("none", "bias"):
        settings = own.settings.model_copy(update={"compensation": compensation})
        slim = prune(dense, replace(own, settings=settings)).slim
        expected = with_tokens(dense, (Merge(1, 9),))
        assert slim.info.merges == (Merge(1, 9),)
        assert torch.equal(slim.module.eval()(IMAGES), expected.module.eval()(IMAGES))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"axes": ("head", "qk", "embed")}, "optin prunes heads and MLP units, not qk, embed"),
        ({"steps": 3}, "optin prunes in one step, not 3"),
        ({"budget": "params=0.5", "optin": {"tau": True}}, "merging tokens saves MACs, not params"),
    ],
    ids=str,
)
def test_unsupported_settings_are_refused(dense: Model, settings: dict[str, Any], message: str) -> None:
    own = job(**settings)
    chosen = method("optin", own.settings.own("optin"))
    with pytest.raises(BadInput, match=message):
        chosen.check(own.settings)
    with pytest.raises(BadInput, match=message):
        chosen.prune(dense, own)


def test_a_ratio_is_refused(dense: Model) -> None:
    with pytest.raises(RecipeError, match="'optin' cannot prune to a budget of ratio: ratio=0"):
        prune(dense, job(ratio=0.5))


def test_budgets_and_images_that_are_not_enough(dense: Model) -> None:
    with pytest.raises(BudgetError, match="the closest achievable budget is macs="):
        method("optin").prune(dense, job(budget="macs=0.02"))
    empty = Calibration(lambda _: [], ("all",), 0)
    with pytest.raises(DataError, match="no calibration images to compare"):
        method("optin").prune(dense, replace(job(), calibration=empty))


def test_activations_that_are_not_finite_are_refused(dense: Model) -> None:
    damaged = Calibration(lambda _: [Batch(IMAGES * torch.nan, LABELS)], ("all",), 0)
    for scores in ("fast", "exact"):
        own = job(budget="macs=0.8", optin={"scores": scores})
        with pytest.raises(CheckFailed, match="are not finite"):
            method("optin", own.settings.own("optin")).prune(dense, replace(own, calibration=damaged))


def test_models_whose_tokens_cannot_be_merged(small: Callable[..., Model], dense: Model) -> None:
    tau = job(optin={"tau": True})
    chosen = method("optin", tau.settings.own("optin"))
    with pytest.raises(UnsupportedModel, match="reads all tokens"):
        chosen.prune(small("beit_base_patch16_224", image_size=SIZE), tau)
    with pytest.raises(BadInput, match="merges tokens already"):
        chosen.prune(with_tokens(dense, (Merge(1, 9),)), tau)


def test_images_are_drawn_in_equal_numbers_from_every_domain() -> None:
    domains = {"ink": IMAGES[:4], "photo": IMAGES[4:]}
    calibration = Calibration(lambda names: [Batch(domains[name], LABELS) for name in names], ("ink", "photo"), 0)
    images = drawn(calibration, 3)
    assert [int((IMAGES[:4] == image).flatten(1).all(1).any()) for image in images] == [1, 1, 0]
    assert len(drawn(calibration, 100)) == 6


def test_a_model_that_merges_tokens_is_pruned(dense: Model) -> None:
    merging = with_tokens(dense, (Merge(1, 9),), trim_last_block=True).identified()
    slim = prune(merging, job(budget="macs=0.8")).slim
    assert 0.792 <= slim.cost.macs / merging.cost.macs <= 0.8


def test_the_python_api(dense: Model) -> None:
    batches = [(IMAGES, LABELS)]
    settings = {"method": "optin", "round_to": 4, "optin": {"images": 4, "tokens": 50, "probes": 1}}
    slim = toolkit.prune(dense, batches, budget="macs=0.6", settings=settings)
    assert 0.594 <= slim.info.macs / dense.info.macs <= 0.6
    with pytest.raises(BadInput, match="not embed"):
        toolkit.prune(dense, batches, axes=("head", "embed"), settings=settings)


def test_the_command(here: Path, command: Callable[..., Any]) -> None:
    words = ("prune", "--method", "optin", "--budget", "macs=0.6", "--set", "prune.optin.images=8")
    ended = command(*words)
    assert ended.code == 0, ended.err
    plan = records.load(PrunePlan, here / "runs/default/pruned/plan.json")
    dense, slim = (store.load(here / "runs/default" / name) for name in ("dense", "pruned"))
    assert plan.method == "optin"
    assert 0.594 <= slim.info.macs / dense.info.macs <= 0.6
    assert remove(dense, plan.cuts).model.info.macs == slim.info.macs
    assert command(*words).made == []
    assert command(*words, "--set", "prune.optin.images=9", "--dry-run").code == 0
    refused = command("prune", "--method", "optin", "--axes", "head,qk")
    assert (refused.code, refused.made) == (2, [])
    assert "optin prunes heads and MLP units, not qk" in refused.err
    listed = command("prune", "--help", "--method", "optin").out
    assert "scores: Score all units at once by gradients (fast)" in listed
