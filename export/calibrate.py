"""Images by which number formats are chosen: what ranges occur, and whether answers stay right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.errors import CheckFailed
from toolkit.pixels import normalised, to_pixels
from toolkit.preprocessing import Preprocessing

Images: TypeAlias = npt.NDArray[Any]
"""[images, 3, S, S], normalised float32, or uint8 pixels where a file takes those; or logits [images, classes]."""
Predict: TypeAlias = Callable[[Images], Images]
"""images -> logits"""

BATCH = 32
ROUNDING = 1e-9
"""Of the difference of two shares in float64; one image in a million makes a thousand times as much."""


@dataclass(frozen=True)
class Part:
    """Images of one source domain that were not trained on, and their classes."""

    domain: str
    images: Images
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Images of the source domains; none of the held-out one, which must stay unseen until parity."""

    calibration: Images
    """Training images, to see ranges."""
    parts: tuple[Part, ...]
    """Validation images, to see what is lost."""
    margin: float
    """Accuracy that may be lost in any domain."""
    trained: Mapping[str, float] = field(default_factory=dict)
    """Accuracy in each domain that training measured, on all its validation images of this size; empty: not known."""

    def __post_init__(self) -> None:
        if not len(self.calibration) or not self.parts or not all(len(part.labels) for part in self.parts):
            raise CheckFailed("there are no images to choose a number format by")

    def of_pixels(self, prepared: Preprocessing) -> Sample:
        """The images as they are when whole numbers, 0 to 255, are normalised: what a file sees that takes pixels."""

        def rounded(images: Images) -> Images:
            return normalised(to_pixels(images, prepared), prepared)

        parts = tuple(replace(part, images=rounded(part.images)) for part in self.parts)
        return replace(self, calibration=rounded(self.calibration), parts=parts)

    def accuracies(self, predict: Predict) -> tuple[float, ...]:
        """Share of images answered right, for each part; NaN, which passes nothing, where a logit is not finite."""
        return tuple(
            _accuracy(np.concatenate([predict(each) for each in batches(part.images)]), part.labels)
            for part in self.parts
        )

    def by_domain(self, shares: Sequence[float]) -> dict[str, float]:
        """One number for each part, by the name of its domain."""
        return {part.domain: share for part, share in zip(self.parts, shares, strict=True)}

    def passes(self, accuracies: Sequence[float], reference: Sequence[float]) -> bool:
        """Whether no domain loses more than the margin."""
        pairs = zip(accuracies, reference, strict=True)
        return all(theirs - mine <= self.margin + ROUNDING for mine, theirs in pairs)


def _accuracy(logits: Images, labels: npt.NDArray[np.int64]) -> float:
    """Of logits [images, classes]. The largest of NaNs would be the first class."""
    return float((logits.argmax(1) == labels).mean()) if np.isfinite(logits).all() else math.nan


def batches(images: Images, size: int = BATCH) -> Iterator[Images]:
    """Images in their order, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


def in_batches(run: Predict, size: int) -> Predict:
    """The answers of a file that takes exactly `size` images a call."""

    def predict(images: Images) -> Images:
        return np.concatenate([run(each) for each in filled(images, size)])[: len(images)]

    return predict


def filled(images: Images, size: int) -> Iterator[Images]:
    """Batches of exactly this size; the last one is filled up with its first image."""
    for batch in batches(images, size):
        yield np.concatenate([batch, *[batch[:1]] * (size - len(batch))])


def shares(accuracies: Sequence[float]) -> str:
    """For people: "97.1%, 85.0%"; where logits are not finite: "97.1%, NaN"."""
    return ", ".join("NaN" if math.isnan(share) else f"{share:.1%}" for share in accuracies)
