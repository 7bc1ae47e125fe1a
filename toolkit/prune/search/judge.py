"""Judgement of small models by their divergence from the dense model on images that no weight was fitted to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from toolkit.dg.batches import Batch
from toolkit.dg.transforms import resampled
from toolkit.errors import DataError
from toolkit.models.modes import evaluating

BATCH_SIZE = 32
LAPS = (8, 4, 2, 1)
"""After each lap of a judgement, one in so many of the images has been seen: each half of the one before."""
WORSE = (1.35, 1.2, 1.1)
"""How many times the best one's divergence on these images ends a judgement, by lap."""
FIRST_LAPS = 2
"""Laps of a quick look at a model."""
SMALLEST = 1e-6
"""Divergence in nats below which a model is taken to equal the dense one."""

Divergences: TypeAlias = tuple[float, ...]
"""KL(dense || small) in nats by image, lap by lap."""


@dataclass(frozen=True)
class Judgement:
    """Divergences of one model by source domain."""

    by_domain: Mapping[str, Divergences]
    complete: bool = True
    """Whether all images were seen: not by a model that was clearly worse on the first ones."""


class Judge:
    """Compares models with the dense one; over several domains, by the mean of their means or by the worst one."""

    def __init__(
        self, dense: nn.Module, images: Mapping[str, Sequence[Batch]], worst: bool = False, size: int | None = None
    ) -> None:
        """images: of the dense model, by source domain. size: image size of the small models, if it is another one.

        Raises DataError for a domain without images.
        """
        self._worst = worst
        if empty := [domain for domain, batches in images.items() if not batches]:
            raise DataError(
                f"there are no calibration images of {', '.join(empty)} to judge models by",
                "every domain needs at least two: half of them fit weights, the other half judge models",
            )
        laps = {domain: _in_laps(batches) for domain, batches in images.items()}
        self._expected = {domain: [_log_probabilities(dense, lap) for lap in each] for domain, each in laps.items()}
        self._images = {
            domain: [resampled(lap, size or lap.shape[-1]) for lap in each] for domain, each in laps.items()
        }

    def judge(self, module: nn.Module, best: Judgement | None = None) -> Judgement:
        """The divergences of a model; of the first images only, if the `best` one's are much smaller there."""
        seen: Mapping[str, Divergences] = dict.fromkeys(self._images, ())
        for lap, worse in enumerate(WORSE):
            seen = self._after(module, lap, seen)
            if best is not None and self._mean(seen) > max(SMALLEST, worse * self._mean(_like(best.by_domain, seen))):
                return Judgement(seen, complete=False)
        return Judgement(self._after(module, len(WORSE), seen))

    def divergence(self, judgement: Judgement, best: Judgement | None = None) -> float:
        """The divergence in nats; infinite if a logit is not finite.

        Of an incomplete judgement, an estimate: the `best` one's divergence, times how much worse the model was on the
        first images.
        """
        value = self._mean(judgement.by_domain)
        if judgement.complete or best is None:
            return value
        on_first = self._mean(_like(best.by_domain, judgement.by_domain))
        return value * self._mean(best.by_domain) / on_first if on_first > SMALLEST else value

    def on_first_images(self, module: nn.Module) -> float:
        """The divergence of a model on the images of the first laps."""
        seen: Mapping[str, Divergences] = dict.fromkeys(self._images, ())
        for lap in range(FIRST_LAPS):
            seen = self._after(module, lap, seen)
        return self._mean(seen)

    def _mean(self, by_domain: Mapping[str, Divergences]) -> float:
        means = [sum(values) / len(values) for values in by_domain.values()]
        value = max(means) if self._worst else sum(means) / len(means)
        return value if math.isfinite(value) else math.inf

    def _after(self, module: nn.Module, lap: int, seen: Mapping[str, Divergences]) -> dict[str, Divergences]:
        """The divergences of each domain after one more lap."""
        result = {}
        for domain, laps in self._images.items():
            expected, actual = self._expected[domain][lap], _log_probabilities(module, laps[lap])
            own = (expected.exp() * (expected - actual)).sum(dim=-1)  # [images]
            result[domain] = (*seen[domain], *own.tolist())
        return result


def _in_laps(batches: Sequence[Batch]) -> list[Tensor]:
    """The images of each lap, at least one in the first: [images, 3, height, width]"""
    images = torch.cat([batch.images for batch in batches])
    return [images[:: LAPS[0]], *(images[one_in :: 2 * one_in] for one_in in LAPS[1:])]


def _like(by_domain: Mapping[str, Divergences], other: Mapping[str, Divergences]) -> dict[str, Divergences]:
    """Divergences of as many images of each domain as `other` has."""
    return {domain: by_domain[domain][: len(values)] for domain, values in other.items()}


def _log_probabilities(module: nn.Module, images: Tensor) -> Tensor:
    """[images, classes] float32"""
    with evaluating(module), torch.inference_mode():
        parts = [log_softmax(module(part).float(), dim=-1) for part in images.split(BATCH_SIZE) if len(part)]
    return torch.cat(parts) if parts else torch.empty(0, 1)
