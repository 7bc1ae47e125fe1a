"""The method `oneshot`: what it judges is what it makes; budgets; errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from toolkit import records
from toolkit.dg.batches import Batch
from toolkit.errors import BadInput, BudgetError
from toolkit.models import store
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.models.tokens import with_tokens
from toolkit.prune import bases
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import compensation
from toolkit.prune.ladders import ladders
from toolkit.prune.methods import Job
from toolkit.prune.pruning import Pruned, prune
from toolkit.prune.rungs import LadderSettings
from toolkit.prune.search.judge import Judge, Judgement
from toolkit.prune.search.space import AXES, Choice
from toolkit.prune.search.stitching import Stitcher
from toolkit.records import Merge, PrunePlan

Small = Callable[..., Model]
IMAGES = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def images() -> Calibration:
    labels = torch.zeros(12, dtype=torch.int64)  # which nothing reads
    return Calibration(lambda _: [Batch(IMAGES[:6], labels[:6]), Batch(IMAGES[6:], labels[6:])], ("all",), seed=0)


@pytest.fixture
def pruned(job: Callable[..., Job], images: Calibration) -> Callable[..., Pruned]:
    """`pruned(model, budget, **settings)`: the result of `oneshot` after six trials."""

    def make(model: Model, budget: str, **more: object) -> Pruned:
        settings = {"method": "oneshot", "budget": budget, "round_to": 2, "oneshot": {"trials": 6}, **more}
        return prune(model.identified(), replace(job(**settings), calibration=images))

    return make


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"])
@pytest.mark.parametrize("budget", ["macs=0.6", "params=0.7"])
def test_budgets_are_met_and_never_exceeded(
    small: Small, pruned: Callable[..., Pruned], name: str, budget: str
) -> None:
    model = small(name, 4, image_size=32, mlp_ratio=4.0)
    result = pruned(model, budget)
    slim, quantity, fraction = result.slim, *budget.partition("=")[::2]
    achieved = slim.cost.macs / model.cost.macs if quantity == "macs" else slim.cost.parameters / model.cost.parameters
    assert result.plan.achieved == pytest.approx(achieved)
    assert 0.9 * float(fraction) < achieved <= float(fraction)  # units of this model are large
    assert not result.plan.merges or (quantity == "macs" and "beit" not in name)


def test_a_plan_is_saved_and_replayed(
    small: Small, pruned: Callable[..., Pruned], images: Calibration, tmp_path: Path
) -> None:
    own = {"trials": 6, "fewest_tokens": 0.2}
    result = pruned(small(depth=4, image_size=32), "macs=0.5", axes=("mlp",), oneshot=own)  # not without merges
    assert result.plan.merges
    assert result.plan.trim_last_block
    assert (result.plan.basis, result.plan.compensation) == ("svd", "sequential")
    records.save(result.plan, tmp_path / "plan.json")
    result.source.save(tmp_path / "source")
    plan, source = records.load(PrunePlan, tmp_path / "plan.json"), store.load(tmp_path / "source")
    reduced = with_tokens(source, plan.merges, plan.trim_last_block)
    again = compensation(plan.compensation).repair(reduced, remove(reduced, plan.cuts), images)
    with torch.inference_mode():
        torch.testing.assert_close(again.module(IMAGES), result.slim.module(IMAGES), rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_plan(small: Small, pruned: Callable[..., Pruned]) -> None:
    model = small(depth=4, image_size=32)
    assert pruned(model, "macs=0.6").plan == pruned(model, "macs=0.6").plan


def test_a_stitched_model_is_what_surgery_and_repair_make(small: Small, images: Calibration) -> None:
    """With weights fitted before tokens are merged, as the search fits them."""
    model = bases.rotate("svd", small(depth=3, image_size=32), images)
    found = ladders(model, images, AXES, LadderSettings(round_to=2))
    kept = tuple((key, sum(ladder.rungs[1].widths)) for key, ladder in found.items())
    choice = Choice((Merge(0, 12),), kept)
    stitched = Stitcher(model, found, True).module(choice)
    repaired = compensation("ridge").repair(model, remove(model, choice.cuts(found)), images)
    expected = with_tokens(repaired, choice.merges, trim_last_block=True)
    with torch.inference_mode():
        torch.testing.assert_close(stitched(IMAGES), expected.module(IMAGES), rtol=1e-4, atol=1e-4)


def test_smaller_images_are_searched_as_well(small: Small, pruned: Callable[..., Pruned]) -> None:
    """Of a model whose widths and tokens stay as they are, only smaller images fit."""
    model = small(depth=4, image_size=32)
    own = {"trials": 2, "merges": 0, "image_sizes": (16, 24)}
    result = pruned(model, "macs=0.65", axes=("qk",), round_to=4, oneshot=own)
    assert result.slim.info.image_size == 24
    assert result.source.info.image_size == 24
    assert result.plan.achieved == pytest.approx(result.slim.cost.macs / model.cost.macs)
    assert 0.4 < result.plan.achieved <= 0.65
    with torch.inference_mode():
        assert result.slim.module(torch.randn(2, 3, 24, 24)).isfinite().all()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((48,), "image_sizes are below the dense model's size of 32 pixels, not 48"), ((20,), "20 is not divisible")],
)
def test_image_sizes_that_are_refused(
    small: Small, pruned: Callable[..., Pruned], sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        pruned(small(depth=4, image_size=32), "macs=0.6", oneshot={"image_sizes": sizes})


def test_a_budget_below_all_floors(small: Small, pruned: Callable[..., Pruned]) -> None:
    with pytest.raises(BudgetError, match=r"0\.01 of the MACs cannot be reached: the smallest model .* has 0\.\d+"):
        pruned(small(depth=4, image_size=32), "macs=0.01")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"axes": ("head", "mlp")}, "oneshot prunes qk, v, mlp, not head"), ({"steps": 2}, "in one step, not 2")],
)
def test_unsupported_settings(
    small: Small, job: Callable[..., Job], images: Calibration, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        prune(
            small(depth=4, image_size=32).identified(), replace(job(method="oneshot", **settings), calibration=images)
        )


def test_no_more_models_are_judged_than_asked_for(
    small: Small, pruned: Callable[..., Pruned], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, judge = list[nn.Module](), Judge.judge

    def counted(self: Judge, module: nn.Module, best: Judgement | None = None) -> Judgement:
        judged.append(module)
        return judge(self, module, best)

    monkeypatch.setattr(Judge, "judge", counted)
    pruned(small(depth=4, image_size=32), "macs=0.6")
    assert len(judged) == 6


def test_a_killed_search_goes_on(
    small: Small, job: Callable[..., Job], images: Calibration, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = job(method="oneshot", budget="macs=0.6", round_to=2, oneshot={"trials": 12})
    model, resumable = small(depth=4, image_size=32).identified(), replace(settings, calibration=images)
    expected = prune(model, resumable).plan
    judged, judge = list[nn.Module](), Judge.judge

    def killed(self: Judge, module: nn.Module, best: Judgement | None = None) -> Judgement:
        if len(judged) == 7:
            raise KeyboardInterrupt
        judged.append(module)
        return judge(self, module, best)

    monkeypatch.setattr(Judge, "judge", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(model, replace(resumable, scratch=lambda: tmp_path))
    judged.clear()
    monkeypatch.undo()
    monkeypatch.setattr(Judge, "judge", lambda *args: (judged.append(args[1]), judge(*args))[1])
    assert prune(model, replace(resumable, scratch=lambda: tmp_path)).plan == expected
    assert len(judged) == 12 - 7
