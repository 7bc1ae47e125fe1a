"""Every statistic against a closed form, a published example, or brute force."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from scipy.stats import multinomial

from toolkit.bench import statistics
from toolkit.bench.statistics import (
    drift,
    images_needed,
    paired_difference_interval,
    percentiles,
    ratio_of_medians,
)
from toolkit.errors import InvalidMeasurement


def test_percentiles_of_a_hundred_and_one_numbers_are_their_ranks() -> None:
    samples = random.Random(0).sample(range(101), 101)
    assert percentiles(samples, (0, 50, 90, 99, 100)) == (0, 50, 90, 99, 100)


def test_percentiles_are_interpolated_linearly() -> None:
    assert percentiles((10.0, 20.0), (25, 50)) == (12.5, 15.0)


def test_drift_by_hand() -> None:
    assert drift((1.0, 2.0, 3.0, 3.0, 4.0, 5.0)) == pytest.approx(1.0)  # medians 2 and 4
    assert drift((2.0, 2.0, 9.0, 2.0, 2.0, 2.0)) == 0.0  # an outlier is not drift
    assert drift((4.0, 3.0)) == pytest.approx(-0.25)


def test_ratio_is_exact_if_all_pairs_have_the_same_ratio() -> None:
    """Every pair has ratio 3, however noisy the machine; unpaired resampling would give a wide interval."""
    reference = [random.Random(seed).uniform(1, 10) for seed in range(40)]
    assert ratio_of_medians(reference, [value / 3 for value in reference]) == pytest.approx((3.0, 3.0, 3.0))
    assert ratio_of_medians(reference, reference) == (1.0, 1.0, 1.0)


def test_ratio_agrees_with_a_bootstrap_written_as_a_loop() -> None:
    rng = np.random.default_rng(3)
    reference, candidate = rng.lognormal(1.0, 0.2, 60), rng.lognormal(0.5, 0.3, 60)
    ratios = []
    for _ in range(20_000):
        rows = rng.integers(0, 60, 60)
        ratios.append(np.median(reference[rows]) / np.median(candidate[rows]))
    value, low, high = ratio_of_medians(tuple(reference), tuple(candidate))
    assert value == pytest.approx(np.median(reference) / np.median(candidate))
    assert (low, high) == pytest.approx(np.percentile(ratios, (2.5, 97.5)), rel=0.02)


def test_ratio_is_deterministic() -> None:
    reference, candidate = tuple(range(10, 40)), tuple(range(20, 50))
    assert ratio_of_medians(reference, candidate) == ratio_of_medians(reference, candidate)


def test_paired_interval_of_a_published_table() -> None:
    """Two approval ratings by the same 1600 people (Agresti, Categorical Data Analysis, table 10.1): 86 against 150.

    By hand: N = 1602, centre -64 / N = -0.03995, spread sqrt(237 - 64^2 / N) / N = 0.009558.
    """
    value, low, high = paired_difference_interval(gained=86, lost=150, images=1600)
    assert value == -0.04
    assert low == pytest.approx(-0.03995 - 1.95996 * 0.009558, abs=2e-6)
    assert high == pytest.approx(-0.03995 + 1.95996 * 0.009558, abs=2e-6)


def test_paired_interval_has_a_width_without_discordant_images() -> None:
    value, low, high = paired_difference_interval(0, 0, 98)
    assert value == 0.0
    assert (low, high) == pytest.approx((-1.959964 / 100, 1.959964 / 100))


def test_paired_interval_stays_within_one() -> None:
    assert paired_difference_interval(0, 2, 2).low == -1.0
    assert paired_difference_interval(2, 0, 2).high == 1.0


@pytest.mark.parametrize(("gain", "loss"), [(0.01, 0.01), (0.02, 0.10), (0.2, 0.2), (0.3, 0.05), (0.0, 0.02)])
@pytest.mark.parametrize("images", [20, 40])
def test_paired_interval_covers_the_true_difference(images: int, gain: float, loss: float) -> None:
    """Exact coverage: every possible table, weighted by its probability."""
    tables = [(g, lost) for g, lost in itertools.product(range(images + 1), repeat=2) if g + lost <= images]
    chances = multinomial.pmf(
        [(g, lost, images - g - lost) for g, lost in tables], images, (gain, loss, 1 - gain - loss)
    )
    coverage = 0.0
    for (gained, lost), chance in zip(tables, chances, strict=True):
        _, low, high = paired_difference_interval(gained, lost, images)
        coverage += chance * (low <= gain - loss <= high)
    assert sum(chances) == pytest.approx(1.0)
    assert coverage >= 0.94


def test_paired_interval_of_a_simulated_pair_of_models() -> None:
    rng = np.random.default_rng(5)
    hits, repeats, images = 0, 2000, 300
    for gained, lost, _ in rng.multinomial(images, (0.03, 0.05, 0.92), repeats):
        _, low, high = paired_difference_interval(int(gained), int(lost), images)
        hits += low <= -0.02 <= high
    assert 0.935 <= hits / repeats <= 0.975


def test_images_needed_without_differences_by_hand() -> None:
    """z / (n + 2) <= margin, so n >= 1.96 / 0.01 - 2 = 194.0 (z = 1.95996)."""
    assert images_needed(0, 0, 50, margin=0.01) == math.ceil(1.959964 / 0.01 - 2)


@pytest.mark.parametrize(
    ("gained", "lost", "images", "margin"), [(2, 3, 200, 0.01), (5, 1, 90, 0.02), (0, 0, 500, 0.01)]
)
def test_images_needed_is_the_smallest_sufficient_number(gained: int, lost: int, images: int, margin: float) -> None:
    needed = images_needed(gained, lost, images, margin)
    assert needed is not None
    rates = gained / images, lost / images
    assert paired_difference_interval(rates[0] * needed, rates[1] * needed, needed).low >= -margin
    fewer = needed - 1
    assert paired_difference_interval(rates[0] * fewer, rates[1] * fewer, fewer).low < -margin


def test_no_number_of_images_decides_a_difference_at_the_margin() -> None:
    assert images_needed(0, 3, 300, margin=0.01) is None
    assert images_needed(0, 9, 300, margin=0.01) is None
    assert images_needed(0, 3, 300, margin=0.01 + 1e-12) is None  # needs more than MAX_IMAGES


@pytest.mark.parametrize(
    "vacuous",
    [
        lambda: percentiles((), (50,)),
        lambda: drift((1.0,)),
        lambda: ratio_of_medians((1.0,) * 5, (1.0,) * 5),
        lambda: ratio_of_medians((1.0,) * 7, (1.0,) * 8),
        lambda: paired_difference_interval(0, 0, 0),
    ],
)
def test_too_few_samples_are_an_error(vacuous: object) -> None:
    assert callable(vacuous)
    with pytest.raises(InvalidMeasurement):
        vacuous()


def test_an_impossible_table_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        paired_difference_interval(6, 5, 10)


def test_the_minimum_sample_count_of_the_median_interval() -> None:
    """The extremes of n samples enclose the median with probability 1 - 2 * 0.5 ** n."""
    assert 1 - 2 * 0.5**statistics.MIN_MEDIAN_SAMPLES >= 0.95 > 1 - 2 * 0.5 ** (statistics.MIN_MEDIAN_SAMPLES - 1)
