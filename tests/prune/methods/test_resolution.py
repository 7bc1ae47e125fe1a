"""The method `resolution`: sizes within MACs and latency budgets, equal to the resized dense model; errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from toolkit.errors import BadInput, BudgetError
from toolkit.models.model import Model
from toolkit.models.resize import resized
from toolkit.prune.grid import Grid
from toolkit.prune.measured_table import MeasuredTable
from toolkit.prune.methods import Job
from toolkit.prune.pruning import prune
from toolkit.prune.verified_search import WholeModels

Small = Callable[..., Model]


@dataclass
class Meter:
    """A fixed latency for each model, and one for each of the MACs."""

    fixed_ms: float
    sizes: list[int] = field(default_factory=list)
    device, runtime, precision, batch_size = "local", "onnxruntime", "fp32", 1

    def table(self, dense: Model, grid: Grid) -> MeasuredTable:
        raise AssertionError("a lower resolution needs no cost table")

    def measure(self, dense: Model, models: Sequence[Model]) -> WholeModels:
        self.sizes += [model.info.image_size for model in models]
        times = [self.fixed_ms + 9 * model.cost.macs / dense.cost.macs for model in (dense, *models)]
        return WholeModels(times[0], tuple(times[1:]))


@pytest.fixture
def dense(small: Small) -> Model:
    return small(depth=2, image_size=64, patch_size=8).identified()


def test_the_largest_size_within_the_budget(dense: Model, job: Callable[..., Job]) -> None:
    result = prune(dense, job(method="resolution", budget="macs=0.5"))
    size = result.slim.info.image_size
    assert size % 8 == 0
    kept = [resized(dense, each).cost.macs / dense.cost.macs for each in (size, size + 8)]
    assert kept[0] <= 0.5 < kept[1]
    assert result.plan.achieved == pytest.approx(kept[0])
    assert result.plan.cuts == result.plan.merges == ()
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(result.slim.module(images), resized(dense, size).module(images))


def test_a_latency_budget(dense: Model, job: Callable[..., Job]) -> None:
    """The first size, by MACs alone, is too slow; what it took corrects the prediction."""
    meter = Meter(fixed_ms=1.0)
    result = prune(dense, replace(job(method="resolution", budget="latency=0.5"), latency=meter))
    record = result.plan.latency
    assert record is not None
    assert record.measured_ms <= record.asked_ms == 5.0
    assert record.searches == len(meter.sizes) == 2
    assert meter.sizes[1] == result.slim.info.image_size < meter.sizes[0]
    assert record.predicted_ms == pytest.approx(record.measured_ms, rel=0.2)
    assert result.plan.achieved == record.measured_ms / record.dense_ms


def test_a_budget_that_no_size_meets(dense: Model, job: Callable[..., Job]) -> None:
    with pytest.raises(BudgetError, match=r"macs=0.001 cannot be reached by a lower resolution: .* leave 0\.0\d+ of"):
        prune(dense, job(method="resolution", budget="macs=0.001"))


def test_a_latency_that_the_dense_model_has(dense: Model, job: Callable[..., Job]) -> None:
    with pytest.raises(BudgetError, match="latency=60ms removes nothing: the dense model takes 10 ms"):
        prune(dense, replace(job(method="resolution", budget="latency=60ms"), latency=Meter(1.0)))


@pytest.mark.parametrize(("name", "value"), [("basis", "svd"), ("compensation", "obs")])
def test_settings_without_use(dense: Model, job: Callable[..., Job], name: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"resolution removes no units: prune.{name} '{value}' has no use"):
        prune(dense, job(method="resolution", **{name: value}))
