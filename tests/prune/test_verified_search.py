"""Latency budgets: the loop of searches, measurements and corrections, with meters that are wrong in known ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import pytest

from toolkit.errors import BudgetError
from toolkit.models.model import Model
from toolkit.prune.budget import Budget
from toolkit.prune.cost_table import CostTable, ModelShape, shape_of, total
from toolkit.prune.grid import Grid, grid_of
from toolkit.prune.measured_table import PARTS, MeasuredTable, Parts
from toolkit.prune.verified_search import Candidate, Whole, WholeModels, correction, search_by_latency
from toolkit.records import LatencyRecord, LatencyTable


class KnownLatencies(Protocol):
    """The fixture `known`."""

    def record(self, grid: Grid) -> LatencyTable: ...


@dataclass
class WrongMeter:
    """Whole models take a factor of what the table says for each part; the machine gets slower all the time."""

    factors: Parts
    known: KnownLatencies
    drift: float = 1.0
    device, runtime, precision, batch_size = "local", "onnxruntime", "fp32", 8
    speed: float = field(default=1.0, init=False)
    searched: list[Model] = field(default_factory=list, init=False)

    def table(self, dense: Model, grid: Grid) -> MeasuredTable:
        self._table = MeasuredTable(self.known.record(grid), grid)
        return self._table

    def measure(self, dense: Model, models: Sequence[Model]) -> WholeModels:
        self.searched += models
        self.speed *= self.drift
        times = [self.speed * self.true_ms(shape_of(model)) for model in (dense, *models)]
        return WholeModels(times[0], tuple(times[1:]), ("disturbed",))

    def true_ms(self, shape: ModelShape) -> float:
        return sum(factor * part for factor, part in zip(self.factors, self._table.parts(shape), strict=True))


@pytest.fixture(scope="module")
def model(small: Callable[..., Model]) -> Model:
    return small(depth=3, embed_dim=48, mlp_ratio=8.0)


def widest(model: Model) -> Callable[[CostTable, float], Candidate[int]]:
    """Search for the widest MLP; shapes stand for pruned models, which are not needed here."""

    def search(table: CostTable, limit: float) -> Candidate[int]:
        dense = shape_of(model)
        for width in range(dense.blocks[0].mlp - 1, 7, -1):
            shape = ModelShape(tuple(replace(block, mlp=width) for block in dense.blocks), dense.image_size)
            if total(table, shape) <= limit:
                return Candidate(width, shape, resized_mlp(model, width))
        raise BudgetError(f"the smallest reachable latency is {total(table, shape):.3g} ms")

    return search


def resized_mlp(model: Model, width: int) -> Model:
    from toolkit.models.surgery import remove
    from toolkit.records import Cut

    groups = [group for group in model.groups if group.axis == "mlp"]
    return remove(model, [Cut(group.place, "mlp", tuple(range(width, group.units))) for group in groups]).model


def found(model: Model, meter: WrongMeter, budget: Budget) -> tuple[Candidate[int], LatencyRecord]:
    return search_by_latency(model, budget, meter, grid_of(model, ("mlp",)), widest(model))


@pytest.mark.parametrize(
    "factors", [(1.2,) * 5, (0.8,) * 5, (1.0, 1.2, 1.0, 1.4, 1.0), (1.3, 1.0, 1.1, 0.8, 1.2)], ids=str
)
def test_a_wrong_table_is_corrected(model: Model, known: KnownLatencies, factors: Parts) -> None:
    meter = WrongMeter(factors, known)
    _, record = found(model, meter, Budget("latency", 0.7))
    assert record.searches == len(meter.searched) <= 3
    assert record.measured_ms / record.dense_ms == pytest.approx(0.7, rel=0.05)
    assert record.predicted_ms == pytest.approx(record.measured_ms, rel=0.05)
    assert record.reasons == ("disturbed",)
    assert (record.device, record.runtime, record.precision, record.batch_size) == ("local", "onnxruntime", "fp32", 8)


def test_a_correct_table_needs_one_search(model: Model, known: KnownLatencies) -> None:
    meter = WrongMeter((1.0,) * 5, known)
    candidate, record = found(model, meter, Budget("latency", milliseconds=90.0))
    assert (record.searches, record.asked_ms) == (1, 90.0)
    assert 89 < record.measured_ms <= 90
    assert record.predicted_ms == pytest.approx(record.measured_ms)
    assert candidate.shape == shape_of(candidate.slim)


def test_a_fraction_is_one_of_the_dense_model_measured_at_the_same_time(model: Model, known: KnownLatencies) -> None:
    _, record = found(model, WrongMeter((1.25,) * 5, known, drift=1.1), Budget("latency", 0.75))
    assert record.measured_ms / record.dense_ms == pytest.approx(0.75, rel=0.02)
    assert record.asked_ms == pytest.approx(0.75 * record.dense_ms)


def test_budgets_that_cannot_be_met(model: Model, known: KnownLatencies) -> None:
    with pytest.raises(BudgetError, match=r"latency=1000ms removes nothing: the dense model takes 97.5 ms"):
        found(model, WrongMeter((1.0,) * 5, known), Budget("latency", milliseconds=1000.0))
    with pytest.raises(BudgetError, match="the smallest reachable latency is"):
        found(model, WrongMeter((1.0,) * 5, known), Budget("latency", 0.01))


def test_the_closest_of_three_is_kept_with_a_warning(
    model: Model, known: KnownLatencies, caplog: pytest.LogCaptureFixture
) -> None:
    """What no factor of a part explains: pruned models never get faster."""

    class NoGain(WrongMeter):
        def measure(self, dense: Model, models: Sequence[Model]) -> WholeModels:
            times = super().measure(dense, models)
            return WholeModels(times.dense_ms, (times.dense_ms,) * len(models))

    meter = NoGain((1.0,) * 5, known)
    with pytest.raises(BudgetError, match="smallest reachable"):  # after the correction, nothing seems fast enough
        found(model, meter, Budget("latency", 0.7))

    class Noise(WrongMeter):
        def measure(self, dense: Model, models: Sequence[Model]) -> WholeModels:
            times = super().measure(dense, models)
            factor = {1: 1.1, 2: 0.92, 3: 1.08}.get(len(self.searched), 1.0)
            return WholeModels(times.dense_ms, tuple(factor * ms for ms in times.models_ms))

    with caplog.at_level("WARNING", logger="toolkit"):
        _, record = found(model, Noise((1.0,) * 5, known), Budget("latency", 0.7))
    error = record.measured_ms / record.asked_ms - 1
    assert 0.05 < abs(error) < 0.1
    assert f"the measured latency is {100 * error:+.0f} % from the budget latency=0.7" in caplog.text


def test_a_correction_explains_all_measurements_and_stays_close_to_one() -> None:
    parts: Parts = (2.0, 3.0, 10.0, 12.0, 1.0)
    assert correction([Whole(parts, sum(parts))]) == pytest.approx((1.0,) * len(PARTS))
    slower = correction([Whole(parts, 1.2 * sum(parts))])
    assert slower == pytest.approx((1.2,) * len(PARTS), abs=0.03), "an error that all parts share is the likeliest"
    halved: Parts = (2.0, 3.0, 10.0, 6.0, 1.0)
    wholes = [Whole(parts, 28.0), Whole(halved, 24.0)]
    factors = correction(wholes)
    for whole in wholes:
        predicted = sum(factor * part for factor, part in zip(factors, whole.parts, strict=True))
        assert predicted == pytest.approx(whole.measured_ms, rel=0.02)
    assert min(factors) == factors[3], "the MLP saved less than predicted"
