"""Search under a latency budget: predict by a measured cost table, measure the result as a whole, correct the table.

The sum over blocks misses what depends on the whole model, such as weights that fall out of the caches. Measurements of
whole models correct it: a factor for each part of the table, closest to 1 among those that explain all measurements.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from toolkit.errors import BudgetError
from toolkit.models.model import Model
from toolkit.prune.budget import Budget
from toolkit.prune.cost_table import ModelShape, shape_of, total
from toolkit.prune.grid import Grid
from toolkit.prune.measured_table import PARTS, MeasuredTable, Parts
from toolkit.records import LatencyRecord

LOG = logging.getLogger(__name__)
TOLERANCE = 0.05
"""Largest relative error of a prediction that needs no correction."""
SEARCHES = 3
COMMON_ERROR, PART_ERROR, NOISE = 0.3, 0.1, 0.01
"""Relative standard deviations assumed by a correction: of an error that all parts have in common, of the parts' own
errors, and of a measurement."""
SMALLEST_FACTOR = 0.1
"""Smallest correction of a part."""

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class WholeModels:
    """Median latencies of exported models, measured interleaved."""

    dense_ms: float
    models_ms: tuple[float, ...]
    reasons: tuple[str, ...] = ()
    """Reasons why the measurement is INVALID; empty if VALID."""


class LatencyMeter(Protocol):
    """Measures on one device and runtime at one batch size, with the settings of one export."""

    device: str
    runtime: str
    precision: str
    batch_size: int

    def table(self, dense: Model, grid: Grid) -> MeasuredTable:
        """The cost table of a dense model's blocks; what was measured before is not measured again."""
        ...

    def measure(self, dense: Model, models: Sequence[Model]) -> WholeModels:
        """Export the dense model and other models as a whole, and measure them."""
        ...


@dataclass(frozen=True)
class Candidate(Generic[Choice]):
    """Result of a search."""

    choice: Choice
    """What the caller needs to make a plan."""
    shape: ModelShape
    slim: Model


@dataclass(frozen=True)
class Whole:
    """A measured model, and what the uncorrected table predicts for its parts."""

    parts: Parts
    measured_ms: float


def search_by_latency(
    dense: Model,
    budget: Budget,
    meter: LatencyMeter,
    grid: Grid,
    search: Callable[[MeasuredTable, float], Candidate[Choice]],
) -> tuple[Candidate[Choice], LatencyRecord]:
    """The candidate whose measured latency is closest to the budget, of at most SEARCHES searches.

    search: the best candidate whose total in the table is at most so many milliseconds; it raises BudgetError, with the
    smallest reachable latency, if there is none. Raises BudgetError for a budget above the dense model's latency.
    """
    table, dense_shape = meter.table(dense, grid), shape_of(dense)
    dense_ms = meter.measure(dense, ()).dense_ms
    if (asked := budget.limit(dense_ms)) >= dense_ms:
        raise BudgetError(f"{budget} removes nothing: the dense model takes {dense_ms:.3g} ms", "choose a smaller one")
    wholes = [Whole(table.parts(dense_shape), dense_ms)]
    found: list[tuple[Candidate[Choice], LatencyRecord]] = []
    for number in range(1, SEARCHES + 1):
        corrected = table.corrected(correction(wholes))
        candidate = search(corrected, asked)
        measured = meter.measure(dense, (candidate.slim,))
        # A fraction is one of the dense model's latency now, whatever changed the machine's speed since the first time.
        scale = 1.0 if budget.milliseconds is not None else measured.dense_ms / dense_ms
        predicted = total(corrected, candidate.shape)
        record = record_of(meter, measured, asked * scale, predicted * scale, number)
        found.append((candidate, record))
        LOG.info("search %d: %.3g ms predicted, %.3g ms measured", number, record.predicted_ms, record.measured_ms)
        if abs(record.predicted_ms / record.measured_ms - 1) <= TOLERANCE:
            break
        wholes.append(Whole(table.parts(candidate.shape), record.measured_ms / scale))
    closest, record = min(found, key=lambda pair: abs(_error(pair[1])))
    if abs(error := _error(record)) > TOLERANCE:
        LOG.warning("the measured latency is %+.0f %% from the budget %s", 100 * error, budget)
    return closest, record


def correction(wholes: Sequence[Whole]) -> tuple[float, ...]:
    """A factor for each of PARTS that explains the measurements of whole models.

    Bayesian linear regression: a factor is 1 plus an error that all parts share plus one of its own, both normally
    distributed around 0; measurements have relative noise. The mean of the posterior is returned.
    """
    latencies = np.array([whole.measured_ms for whole in wholes])  # [models]
    shares = np.array([whole.parts for whole in wholes]) / latencies[:, None]  # [models, parts]
    residuals = 1.0 - shares.sum(axis=1)  # [models]
    prior = COMMON_ERROR**2 * np.ones((len(PARTS), len(PARTS))) + PART_ERROR**2 * np.eye(len(PARTS))
    noise = NOISE**2 * np.eye(len(wholes))
    errors = prior @ shares.T @ np.linalg.solve(shares @ prior @ shares.T + noise, residuals)  # [parts]
    return tuple(float(factor) for factor in np.maximum(1.0 + errors, SMALLEST_FACTOR))


def record_of(
    meter: LatencyMeter, measured: WholeModels, asked_ms: float, predicted_ms: float, searches: int
) -> LatencyRecord:
    """The record of the last of so many searches, whose result was measured beside the dense model."""
    return LatencyRecord(
        asked_ms=asked_ms,
        predicted_ms=predicted_ms,
        measured_ms=measured.models_ms[0],
        dense_ms=measured.dense_ms,
        device=meter.device,
        runtime=meter.runtime,
        precision=meter.precision,
        batch_size=meter.batch_size,
        searches=searches,
        reasons=measured.reasons,
    )


def _error(record: LatencyRecord) -> float:
    """Relative distance of the measured latency from the budget."""
    return record.measured_ms / record.asked_ms - 1
