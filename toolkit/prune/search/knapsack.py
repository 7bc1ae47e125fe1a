"""One option for each of several modules, of the smallest total error within a budget of costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

BUCKETS = 2048
"""Resolution of the costs in dynamic programming; what rounding leaves over is spent afterwards."""


@dataclass(frozen=True)
class Options:
    """Options of a module, in any order."""

    costs: Values  # [options]
    errors: Values  # [options]


def choose(modules: Sequence[Options], limit: float) -> list[int] | None:
    """Index of the option of each module; None if even the cheapest options cost more than `limit`."""
    cheapest = [int(options.costs.argmin()) for options in modules]
    slack = limit - sum(options.costs[index] for options, index in zip(modules, cheapest, strict=True))
    if slack < 0:
        return None
    chosen = _by_dynamic_programming(modules, slack / BUCKETS) if slack > 0 else cheapest
    return _spend(modules, chosen, limit)


def _by_dynamic_programming(modules: Sequence[Options], bucket: float) -> list[int]:
    """Options whose costs above the cheapest, rounded up to buckets, sum to at most BUCKETS."""
    least = np.zeros(BUCKETS + 1)  # [budget in buckets]: smallest error of the modules so far
    steps: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    for options in modules:
        extra = np.ceil((options.costs - options.costs.min()) / bucket - 1e-9).astype(np.int64)  # [options]
        errors = np.full((len(extra), BUCKETS + 1), np.inf)
        for index, (needed, error) in enumerate(zip(extra, options.errors, strict=True)):
            if needed <= BUCKETS:
                errors[index, needed:] = least[: BUCKETS + 1 - needed] + error
        best = errors.argmin(axis=0)
        least = errors[best, np.arange(BUCKETS + 1)]
        steps.append((best, extra))
    chosen, budget = [], BUCKETS
    for best, extra in reversed(steps):
        chosen.append(int(best[budget]))
        budget -= int(extra[chosen[-1]])
    return chosen[::-1]


def _spend(modules: Sequence[Options], chosen: Sequence[int], limit: float) -> list[int]:
    """Better options, as long as the budget allows one: that with the largest gain for its cost first."""
    current = list(chosen)
    left = limit - sum(options.costs[index] for options, index in zip(modules, current, strict=True))
    smallest = 1e-9 * max(float(options.costs.max() - options.costs.min()) for options in modules) + 1e-30
    while True:
        best = (0.0, -1, -1, 0.0)
        for number, (options, index) in enumerate(zip(modules, current, strict=True)):
            gains, extra = options.errors[index] - options.errors, options.costs - options.costs[index]
            rates = np.where((gains > 0) & (extra <= left), gains / np.maximum(extra, smallest), 0.0)
            option = int(rates.argmax())
            best = max(best, (float(rates[option]), number, option, float(extra[option])), key=lambda item: item[0])
        rate, number, option, cost = best
        if not rate > 0:
            return current
        current[number] = option
        left -= cost
