"""Finals: training towards the dense model, and the choice by what it brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from toolkit.dg.batches import Batch
from toolkit.models.model import Model
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job
from toolkit.prune.pruning import prune
from toolkit.prune.search import finals, searcher
from toolkit.prune.search.finals import lesson_of, train
from toolkit.prune.search.judge import Judge, Judgement

IMAGES = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).requires_grad_(False)


def test_training_brings_a_model_closer_to_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finals, "LEARNING_RATE", 1e-2)
    dense, small, again = linear(0), linear(1), linear(1)
    batches = [IMAGES[:7], IMAGES[7:]]
    judge = Judge(dense, {"all": [Batch(IMAGES, torch.zeros(12, dtype=torch.int64))]})
    before = judge.divergence(judge.judge(small))
    for module in (small, again):
        train(module, lesson_of(dense, batches, batches), steps=30, seed=3)
    assert judge.divergence(judge.judge(small)) < 0.1 * before
    assert torch.equal(small(IMAGES), again(IMAGES))
    assert not any(parameter.requires_grad for parameter in small.parameters())


def test_every_image_is_drawn_before_one_is_drawn_again() -> None:
    dense = linear(0)
    lesson = lesson_of(dense, [IMAGES], [IMAGES])
    lesson = replace(lesson, images=IMAGES.repeat(8, 1, 1, 1)[:90], logits=torch.arange(90.0)[:, None])
    drawn = torch.cat([logits for _, logits in lesson.batches(5, seed=0)]).flatten().tolist()
    assert len(drawn) == 5 * finals.BATCH_SIZE
    assert sorted(drawn[:90]) == [*range(90)]


@pytest.mark.parametrize("better", [0, 1, 2])
def test_the_best_one_after_training_is_chosen(
    small: Callable[..., Model], job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, better: int
) -> None:
    """Training only one of the three finalists to perfection makes it win."""
    trained: list[nn.Module] = []
    judged = Judge.judge

    def only_one(module: nn.Module, *_: object) -> None:
        trained.append(module)

    def judge(self: Judge, module: nn.Module, best: Judgement | None = None) -> Judgement:
        found = judged(self, module, best)
        perfect = len(trained) > better and module is trained[better]
        return replace(found, by_domain={"all": (0.0,)}) if perfect else found

    calibration = Calibration(lambda _: [Batch(IMAGES, torch.zeros(12, dtype=torch.int64))], ("all",), seed=0)
    model = small(depth=4).identified()

    def plans(finalists: int) -> tuple[object, ...]:
        given = {"budget": "macs=0.6", "round_to": 2, "axes": ("qk", "mlp"), "finalists": finalists}
        settings = job(method="oneshot", oneshot={"trials": 8}, **given)
        plan = prune(model, replace(settings, calibration=calibration)).plan
        return plan.merges, plan.cuts

    monkeypatch.setattr(searcher, "train", only_one)
    monkeypatch.setattr(Judge, "judge", judge)
    first, chosen = plans(1), plans(3)
    assert len(trained) == 3
    assert (chosen == first) == (better == 0)
