"""Statistics of samples: estimates with their 95 % confidence intervals.

scipy is imported in the functions that use it: the agent on a device has to work without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from toolkit.characters import counted
from toolkit.errors import InvalidMeasurement

CONFIDENCE = 0.95
RESAMPLES = 2000
"""Bootstrap resamples: the ends of a percentile interval then vary by about a twentieth of its width (Efron &
Tibshirani 1993, section 19.3)."""
RESAMPLES_PER_BATCH = 50
"""Limits the resampled arrays of a hundred thousand samples to 100 MB."""
MIN_MEDIAN_SAMPLES = 6
"""Fewest samples with a distribution-free 95 % interval of the median: 1 - 2 * 0.5 ** 6 = 0.97."""
MAX_IMAGES = 10**9
"""Upper limit of the search in `images_needed`: no dataset is larger."""


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def percentiles(samples: Sequence[float], percents: Sequence[float]) -> tuple[float, ...]:
    """Percentiles at `percents` (0 to 100), linearly interpolated (Hyndman & Fan 1996, type 7)."""
    return tuple(float(value) for value in np.percentile(_checked(samples), percents))


def drift(samples: Sequence[float]) -> float:
    """Median of the second half over median of the first half, minus one: 0.1 means 10 % slower towards the end."""
    values = _checked(samples, at_least=2)
    middle = len(values) // 2
    return float(np.median(values[middle:]) / np.median(values[:middle])) - 1.0


def ratio_of_medians(reference: Sequence[float], candidate: Sequence[float], seed: int = 0) -> Estimate:
    """Median of `reference` over median of `candidate`: the candidate's speed-up.

    Samples i of both were taken in the same round, so pairs are resampled (Efron & Tibshirani 1993, percentile
    interval; the bias-corrected one needs a jackknife, which is inconsistent for medians).
    """
    from scipy.stats import bootstrap

    if len(reference) != len(candidate):
        raise InvalidMeasurement(f"{len(reference)} and {len(candidate)} samples cannot be paired")
    pair = (_checked(reference, at_least=MIN_MEDIAN_SAMPLES), _checked(candidate, at_least=MIN_MEDIAN_SAMPLES))
    interval = bootstrap(
        pair,
        _median_ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=RESAMPLES_PER_BATCH,
        method="percentile",
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(_median_ratio(*pair)), float(interval.low), float(interval.high))


def paired_difference_interval(gained: float, lost: float, images: float) -> Estimate:
    """Difference of two accuracies on the same images, with the adjusted Wald interval of Agresti & Min (2005).

    gained: images that only the candidate classifies correctly; lost: those that only the reference does; images: all.
    Half an image is added to each cell of the two-by-two table, which keeps the coverage close to 95 % for few
    discordant images ("Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine
    24, 729-740). Raises InvalidMeasurement without images, ValueError for counts that exceed them.
    """
    if images <= 0:
        raise InvalidMeasurement("there are no images to compare two accuracies on")
    if gained < 0 or lost < 0 or gained + lost > images:
        raise ValueError(f"{gained} gained and {lost} lost do not fit {images} images")
    total = images + 2
    centre = (gained - lost) / total
    spread = math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / total) / total
    half = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * spread
    return Estimate((gained - lost) / images, max(-1.0, centre - half), min(1.0, centre + half))


def images_needed(gained: int, lost: int, images: int, margin: float) -> int | None:
    """Number of images at which the interval's lower end would reach -margin at the observed rates.

    None if no number suffices: the observed difference is at or below -margin, or too close to it.
    """

    def suffices(count: int) -> bool:
        factor = count / images
        return paired_difference_interval(gained * factor, lost * factor, count).low >= -margin

    if (gained - lost) / images <= -margin:
        return None
    high = images
    while not suffices(high):
        high *= 2
        if high > MAX_IMAGES:
            return None
    low = 0  # does not suffice
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _median_ratio(reference: np.ndarray, candidate: np.ndarray, axis: int = -1) -> np.ndarray:
    ratio: np.ndarray = np.median(reference, axis=axis) / np.median(candidate, axis=axis)
    return ratio


def _checked(samples: Sequence[float], at_least: int = 1) -> np.ndarray:
    """Samples as an array; raises InvalidMeasurement if there are too few."""
    if len(samples) < at_least:
        raise InvalidMeasurement(
            f"too few: {counted(len(samples), 'sample')}, at least {at_least} needed", "measure longer (--samples)"
        )
    return np.asarray(samples, dtype=np.float64)
