"""The knapsack against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.prune.search.knapsack import Options, choose


def random_modules(seed: int) -> list[Options]:
    generator = np.random.default_rng(seed)
    return [Options(generator.random(count), generator.random(count)) for count in generator.integers(1, 5, size=4)]


@given(st.integers(0, 2**31), st.floats(0.05, 0.99))
@settings(max_examples=50)
def test_the_best_options_within_the_budget(seed: int, share: float) -> None:
    """Rounding costs to buckets may miss the optimum by what a few buckets are worth."""
    modules = random_modules(seed)
    cheapest = sum(float(options.costs.min()) for options in modules)
    dearest = sum(float(options.costs.max()) for options in modules)
    limit = cheapest + share * (dearest - cheapest)
    chosen = choose(modules, limit)
    assert chosen is not None

    def cost(indices: tuple[int, ...]) -> float:
        return sum(float(options.costs[index]) for options, index in zip(modules, indices, strict=True))

    def error(indices: tuple[int, ...]) -> float:
        return sum(float(options.errors[index]) for options, index in zip(modules, indices, strict=True))

    every = [*itertools.product(*(range(len(options.costs)) for options in modules))]
    tighter = limit - 5 * (limit - cheapest) / 2048
    assert cost(tuple(chosen)) <= limit
    assert error(tuple(chosen)) <= min(error(indices) for indices in every if cost(indices) <= tighter) + 1e-12


def test_no_options_are_cheap_enough() -> None:
    assert choose([Options(np.array([2.0, 3.0]), np.array([1.0, 0.0]))], 1.9) is None


@pytest.mark.parametrize("limit", [10.0, 3.0])
def test_a_budget_that_allows_everything(limit: float) -> None:
    assert choose([Options(np.array([2.0, 3.0, 1.0]), np.array([1.0, 0.0, 2.0]))], limit) == [1]
