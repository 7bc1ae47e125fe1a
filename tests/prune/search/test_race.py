"""Judgements: the literal divergence; clearly worse models see a part of the images; files of judgements."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from toolkit.dg.batches import Batch
from toolkit.errors import DataError
from toolkit.prune.search.judge import Judge, Judgement
from toolkit.prune.search.race import Judgements, Race
from toolkit.prune.search.space import Choice
from toolkit.records import Merge

CHOICES = [Choice((Merge(0, tokens),), ((("blocks.0.mlp", "mlp"), 8),)) for tokens in (1, 2, 3)]


class Scaled(nn.Module):
    """Logits of a dense model, multiplied."""

    def __init__(self, dense: nn.Module, factor: float) -> None:
        super().__init__()
        self.dense, self.factor, self.seen = dense, factor, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.factor * self.dense(images)


@pytest.fixture
def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).requires_grad_(False)


@pytest.fixture
def images() -> dict[str, list[Batch]]:
    drawn = {"photo": torch.randn(9, 3, 2, 2), "sketch": torch.randn(13, 3, 2, 2)}
    labels = torch.zeros(13, dtype=torch.int64)  # which nothing reads
    return {name: [Batch(part, labels[: len(part)]) for part in each.split(8)] for name, each in drawn.items()}


@pytest.mark.parametrize("worst", [False, True])
def test_divergence(dense: nn.Module, images: dict[str, list[Batch]], worst: bool) -> None:
    model, by_domain = Scaled(dense, 3.0), []
    for batches in images.values():
        inputs = torch.cat([batch.images for batch in batches])
        actual, expected = log_softmax(model(inputs), dim=-1), log_softmax(dense(inputs), dim=-1)
        by_domain.append(float(kl_div(actual, expected, log_target=True, reduction="batchmean")))
    judge = Judge(dense, images, worst)
    found = judge.divergence(judge.judge(model))
    assert found == pytest.approx(max(by_domain) if worst else sum(by_domain) / 2, rel=1e-5)


def test_logits_that_are_not_finite(dense: nn.Module, images: dict[str, list[Batch]]) -> None:
    judge = Judge(dense, images)
    assert judge.divergence(judge.judge(Scaled(dense, math.nan))) == math.inf


def test_a_clearly_worse_model_sees_a_part_of_the_images(dense: nn.Module, images: dict[str, list[Batch]]) -> None:
    models = dict(zip(CHOICES, (Scaled(dense, 1.5), Scaled(dense, 4.0), Scaled(dense, 1.45)), strict=True))
    race = Race(Judge(dense, images), Judgements(), models.__getitem__)
    found = [race.divergence(choice) for choice in CHOICES]
    assert [model.seen for model in models.values()] == [22, 2 + 2, 22]  # every eighth image of each domain
    complete = Judge(dense, images)
    assert found[1] == pytest.approx(complete.divergence(complete.judge(models[CHOICES[1]])), rel=0.5)
    assert found[2] < found[0] < found[1]


@pytest.mark.parametrize(("factor", "seen"), [(1.6, 2 + 2), (1.57, 3 + 4), (1.53, 5 + 7), (1.51, 22)])
def test_the_worse_a_model_the_fewer_images_it_sees(
    dense: nn.Module, images: dict[str, list[Batch]], factor: float, seen: int
) -> None:
    judge, model = Judge(dense, images), Scaled(dense, factor)
    found = judge.judge(model, judge.judge(Scaled(dense, 1.5)))
    assert (model.seen, found.complete) == (seen, seen == 22)


def test_files_of_judgements(tmp_path: Path) -> None:
    file = tmp_path / "judgements.jsonl"
    written = Judgements(file)
    written.add(CHOICES[0], Judgement({"photo": (0.25, math.inf)}))
    with file.open("a") as stream:
        stream.write('\n{"choice": "cut o')  # by a kill
    again = Judgements(file)
    again.add(CHOICES[1], Judgement({"photo": (0.5,)}, complete=False))
    found = Judgements(file)
    assert found.get(CHOICES[0]) == Judgement({"photo": (0.25, math.inf)})
    assert found.get(CHOICES[1]) == Judgement({"photo": (0.5,)}, complete=False)
    assert found.get(CHOICES[2]) is None


def test_an_estimate_is_above_the_best_one_even_if_that_equals_the_dense_model(
    dense: nn.Module, images: dict[str, list[Batch]]
) -> None:
    models = dict(zip(CHOICES, (Scaled(dense, 1.0), Scaled(dense, 4.0), Scaled(dense, 2.0)), strict=True))
    race = Race(Judge(dense, images), Judgements(), models.__getitem__)
    exact, worst, worse = (race.divergence(choice) for choice in CHOICES)
    assert [model.seen for model in models.values()] == [22, 4, 4]
    assert abs(exact) < 1e-6 < worse < worst


def test_a_domain_without_images(dense: nn.Module, images: dict[str, list[Batch]]) -> None:
    with pytest.raises(DataError, match="there are no calibration images of cartoon to judge models by"):
        Judge(dense, {**images, "cartoon": []})
