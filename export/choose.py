"""Which blocks stay float32 in lower precision: measured, and as few as keep every domain within the margin."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from toolkit.errors import CheckFailed
from toolkit.export.calibrate import Predict, batches, shares
from toolkit.export.reference import Reference
from toolkit.progress import Progress

Lowered = Callable[[Collection[int]], Predict]
"""Blocks that stay float32 -> the answers of the model whose other blocks are in lower precision."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what it costs on the sample."""

    blocks: tuple[int, ...]
    """Blocks that stay float32, most sensitive first."""
    accuracies: tuple[float, ...]


def choose(lowered: Lowered, reference: Reference, count: int, report: Progress) -> Choice:
    """All blocks in lower precision if that passes; else the fewest most sensitive ones of `count` stay float32.

    A block is the more sensitive the further it alone, in lower precision, moves the logits. Raises CheckFailed where
    not even a model with all blocks in float32 passes: then the layers outside of them are at fault.
    """
    sample, expected = reference.sample, reference.accuracies

    def tried(blocks: Collection[int]) -> Choice:
        return Choice(tuple(blocks), sample.accuracies(lowered(blocks)))

    report(0, count + 1, "all blocks in lower precision")
    choice = tried(())
    if sample.passes(choice.accuracies, expected):
        return choice
    order = _by_sensitivity(lowered, reference, count, report)
    low, high = 1, count
    best = tried(order)
    if not sample.passes(best.accuracies, expected):
        raise CheckFailed(
            f"even with all blocks in float32 the accuracy falls from {shares(expected)} to {shares(best.accuracies)}"
        )
    while low < high:
        middle = (low + high) // 2
        candidate = tried(order[:middle])
        if sample.passes(candidate.accuracies, expected):
            best, high = candidate, middle
        else:
            low = middle + 1
    return best


def _by_sensitivity(lowered: Lowered, reference: Reference, count: int, report: Progress) -> list[int]:
    images = next(batches(reference.sample.calibration))
    moved = []
    for block in range(count):
        report(block + 1, count + 1, f"block {block} alone")
        others = [other for other in range(count) if other != block]
        found = lowered(others)(images).astype(np.float64)
        finite = bool(np.isfinite(found).all())
        moved.append(float(np.square(found - reference.logits).mean()) if finite else math.inf)
    return sorted(range(count), key=lambda block: -moved[block])
