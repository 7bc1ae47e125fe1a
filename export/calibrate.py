"""Images by which number formats are chosen: what ranges occur, and whether answers stay right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.errors import CheckFailed

Images: TypeAlias = npt.NDArray[Any]
"""[images, 3, S, S], normalised float32, or uint8 pixels where a file takes those; or logits [images, classes]."""
Predict: TypeAlias = Callable[[Images], Images]
"""images -> logits"""

BATCH = 32


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

    def __post_init__(self) -> None:
        if not len(self.calibration) or not self.parts or not all(len(part.labels) for part in self.parts):
            raise CheckFailed("there are no images to choose a number format by")

    def accuracies(self, predict: Predict) -> tuple[float, ...]:
        """Share of images answered right, for each part."""
        return tuple(
            float((np.concatenate([predict(each).argmax(1) for each in batches(part.images)]) == part.labels).mean())
            for part in self.parts
        )

    def by_domain(self, shares: Sequence[float]) -> dict[str, float]:
        """One number for each part, by the name of its domain."""
        return {part.domain: share for part, share in zip(self.parts, shares, strict=True)}

    def passes(self, accuracies: Sequence[float], reference: Sequence[float]) -> bool:
        """Whether no domain loses more than the margin."""
        return all(mine >= theirs - self.margin for mine, theirs in zip(accuracies, reference, strict=True))


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
    """For people: "97.1%, 85.0%"."""
    return ", ".join(f"{share:.1%}" for share in accuracies)
