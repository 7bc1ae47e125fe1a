"""Calibration and validation images, by which the precision of each layer is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.errors import CheckFailed
from toolkit.pixels import Array, InputFormat

Predict: TypeAlias = Callable[[Array], Array]
"""images -> logits"""

BATCH_SIZE = 32
ROUNDING = 1e-9
"""Rounding error of the difference of two accuracies in float64; one image in a million is a thousand times as much."""


@dataclass(frozen=True)
class DomainSample:
    """Validation images of one source domain, and their classes."""

    name: str
    images: Array
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Images of the source domains; none of the held-out domain, which must stay unseen until parity."""

    calibration: Array
    """Training images, to measure ranges of activations."""
    domains: tuple[DomainSample, ...]
    """Validation images, to measure the loss of accuracy."""
    margin: float
    """Maximum accuracy loss in any domain."""
    trained_accuracy: Mapping[str, float] = field(default_factory=dict)
    """Accuracy by domain as measured in training, on all validation images of this size; empty: unknown."""

    def __post_init__(self) -> None:
        if not len(self.calibration) or not self.domains or not all(len(domain.labels) for domain in self.domains):
            raise CheckFailed("there are no images to choose a precision by")

    def as_seen_by(self, file: InputFormat) -> Sample:
        """The sample with images as this file receives them: rounded to 8-bit values if it takes pixels."""

        def seen(images: Array) -> Array:
            return file.decode(file.encode(images))

        domains = tuple(replace(domain, images=seen(domain.images)) for domain in self.domains)
        return replace(self, calibration=seen(self.calibration), domains=domains)

    def accuracies(self, predict: Predict) -> tuple[float, ...]:
        """Top-1 accuracy in each domain; NaN, which never passes, if a logit is not finite."""
        return tuple(
            _accuracy(np.concatenate([predict(batch) for batch in batches(domain.images)]), domain.labels)
            for domain in self.domains
        )

    def by_domain(self, values: Sequence[float]) -> dict[str, float]:
        """Domain name to value, from one value per domain."""
        return {domain.name: value for domain, value in zip(self.domains, values, strict=True)}

    def passes(self, accuracies: Sequence[float], reference: Sequence[float]) -> bool:
        """Whether no domain loses more than the margin."""
        pairs = zip(accuracies, reference, strict=True)
        return all(expected - actual <= self.margin + ROUNDING for actual, expected in pairs)


def _accuracy(logits: Array, labels: npt.NDArray[np.int64]) -> float:
    """Top-1 accuracy of logits [images, classes]; NaN if one is not finite, where argmax would return class 0."""
    return float((logits.argmax(1) == labels).mean()) if np.isfinite(logits).all() else math.nan


def sample_of(
    calibration: Iterable[tuple[Any, Any]], validation: Mapping[str, Iterable[tuple[Any, Any]]], margin: float
) -> Sample:
    """A sample from batches of (images, labels), as arrays or CPU tensors; those for validation by domain."""
    domains = tuple(DomainSample(name, *_joined(batches)) for name, batches in validation.items())
    return Sample(_joined(calibration)[0], domains, margin)


def _joined(batches: Iterable[tuple[Any, Any]]) -> tuple[Array, npt.NDArray[np.int64]]:
    """All images and all labels."""
    images, labels = zip(*batches, strict=True)
    return np.concatenate([*map(np.asarray, images)]), np.concatenate([*map(np.asarray, labels)])


def batches(images: Array) -> Iterator[Array]:
    """Consecutive batches of BATCH_SIZE images; the last one may be smaller."""
    for start in range(0, len(images), BATCH_SIZE):
        yield images[start : start + BATCH_SIZE]


def percentages(accuracies: Sequence[float]) -> str:
    """Accuracies in messages: "97.1%, 85.0%"; "97.1%, NaN" if logits are not finite."""
    return ", ".join("NaN" if math.isnan(accuracy) else f"{accuracy:.1%}" for accuracy in accuracies)
