"""Pure functions of samples: what was measured, and how sure that is.

Intervals are at 95 %. scipy is imported where it is used, so that the agent on a device can do without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from toolkit.characters import counted
from toolkit.errors import InvalidMeasurement

CONFIDENCE = 0.95
RESAMPLES = 2000
"""Bootstrap resamples: the ends of a percentile interval then move by about a twentieth of its width (Efron &
Tibshirani 1993, section 19.3)."""
RESAMPLES_AT_ONCE = 50
"""Keeps the resampled arrays of a hundred thousand samples below 100 MB."""
MEDIAN_NEEDS = 6
"""Samples below which no 95 % interval of a median exists without assuming a distribution: 1 - 2 * 0.5 ** 6 = 0.97."""

MOST_IMAGES = 10**9
"""More images than anybody has: a comparison that needs them will not be decided."""


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def percentiles(samples: Sequence[float], wanted: Sequence[float]) -> tuple[float, ...]:
    """The wanted percentiles (0 to 100), linear between samples (Hyndman & Fan 1996, type 7)."""
    return tuple(float(value) for value in np.percentile(_some(samples), wanted))


def coefficient_of_variation(samples: Sequence[float]) -> float:
    """Standard deviation (n - 1) over mean; needs two samples and a mean that is not zero."""
    values = _some(samples, at_least=2)
    mean = float(values.mean())
    if mean == 0.0:
        raise InvalidMeasurement("samples of mean 0 have no coefficient of variation")
    return float(values.std(ddof=1)) / mean


def drift(samples: Sequence[float]) -> float:
    """Median of the second half over median of the first half, minus one: 0.1 is 10 % slower towards the end."""
    values = _some(samples, at_least=2)
    middle = len(values) // 2
    return float(np.median(values[middle:]) / np.median(values[:middle])) - 1.0


def median_interval(samples: Sequence[float]) -> Estimate:
    """Median, with the interval between two order statistics (Conover 1999, section 3.2): for any distribution.

    It takes the samples for independent; where slow phases of the machine last many samples it is too narrow.
    """
    from scipy.stats import quantile_test

    values = _some(samples, at_least=MEDIAN_NEEDS)
    interval: Any = quantile_test(values, p=0.5).confidence_interval(CONFIDENCE)
    return Estimate(float(np.median(values)), float(interval.low), float(interval.high))


def ratio_of_medians(reference: Sequence[float], candidate: Sequence[float], seed: int = 0) -> Estimate:
    """Median of `reference` over median of `candidate`: how many times faster the candidate is.

    Sample i of both was taken side by side, so pairs are resampled (Efron & Tibshirani 1993, percentile interval; the
    bias-corrected one needs a jackknife, which fails for medians).
    """
    from scipy.stats import bootstrap

    if len(reference) != len(candidate):
        raise InvalidMeasurement(f"{len(reference)} and {len(candidate)} samples cannot be paired")
    pair = (_some(reference, at_least=MEDIAN_NEEDS), _some(candidate, at_least=MEDIAN_NEEDS))
    interval = bootstrap(
        pair,
        _median_ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=RESAMPLES_AT_ONCE,
        method="percentile",
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(_median_ratio(*pair)), float(interval.low), float(interval.high))


def paired_difference_interval(gained: float, lost: float, images: float) -> Estimate:
    """Difference of two accuracies on the same images, with the adjusted Wald interval of Agresti & Min (2005).

    gained: images that only the candidate classifies rightly; lost: only the reference; images: all of them. Half an
    image is added to each cell of the two-by-two table, which keeps the interval honest where the two hardly differ
    ("Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24, 729-740).
    """
    if images <= 0:
        raise InvalidMeasurement("two accuracies on no images cannot be compared")
    if gained < 0 or lost < 0 or gained + lost > images:
        raise ValueError(f"{gained} gained and {lost} lost do not fit {images} images")
    total = images + 2
    centre = (gained - lost) / total
    spread = math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / total) / total
    half = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * spread
    return Estimate((gained - lost) / images, max(-1.0, centre - half), min(1.0, centre + half))


def images_needed(gained: int, lost: int, images: int, margin: float) -> int | None:
    """Images after which the interval's lower end would reach -margin, should the rates seen so far hold.

    None where no number is enough, because the observed difference is not above -margin, or lies too close to it.
    """

    def enough(number: int) -> bool:
        share = number / images
        return paired_difference_interval(gained * share, lost * share, number).low >= -margin

    if (gained - lost) / images <= -margin:
        return None
    high = images
    while not enough(high):
        high *= 2
        if high > MOST_IMAGES:
            return None
    low = 0  # not enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _median_ratio(reference: np.ndarray, candidate: np.ndarray, axis: int = -1) -> np.ndarray:
    ratio: np.ndarray = np.median(reference, axis=axis) / np.median(candidate, axis=axis)
    return ratio


def _some(samples: Sequence[float], at_least: int = 1) -> np.ndarray:
    if len(samples) < at_least:
        raise InvalidMeasurement(
            f"too few: {counted(len(samples), 'sample')}, at least {at_least} needed", "measure longer (--samples)"
        )
    return np.asarray(samples, dtype=np.float64)
