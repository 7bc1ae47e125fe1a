"""Mixed precision: find the smallest set of blocks to keep in fp32 so that every domain stays within the margin."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from toolkit.errors import CheckFailed
from toolkit.export.calibrate import Predict, batches, percentages
from toolkit.export.reference import Reference
from toolkit.progress import Progress

MixedModel = Callable[[Collection[int]], Predict]
"""Indices of the blocks to keep in fp32 -> predictions with all other blocks in lower precision."""


@dataclass(frozen=True)
class Fp32Blocks:
    """Blocks kept in fp32, and the accuracy on the sample with all others in lower precision."""

    blocks: tuple[int, ...]
    """Block indices, most sensitive first."""
    accuracies: tuple[float, ...]


def select_fp32_blocks(
    mixed_model: MixedModel, reference: Reference, num_blocks: int, progress: Progress
) -> Fp32Blocks:
    """The fewest, most sensitive of `num_blocks` blocks to keep in fp32 so that the sample passes; none if possible.

    A block's sensitivity is the mean squared error of the logits with only this block in lower precision. Raises
    CheckFailed if the sample fails even with all blocks in fp32: the layers outside of the blocks are then at fault.
    """
    sample, expected = reference.sample, reference.accuracies

    def evaluate(blocks: Collection[int]) -> Fp32Blocks:
        return Fp32Blocks(tuple(blocks), sample.accuracies(mixed_model(blocks)))

    progress(0, num_blocks + 1, "all blocks in lower precision")
    best = evaluate(())
    if sample.passes(best.accuracies, expected):
        return best
    order = _by_sensitivity(mixed_model, reference, num_blocks, progress)
    low, high = 1, num_blocks
    best = evaluate(order)
    if not sample.passes(best.accuracies, expected):
        before, after = percentages(expected), percentages(best.accuracies)
        raise CheckFailed(f"even with all blocks in fp32 the accuracy drops from {before} to {after}")
    while low < high:
        middle = (low + high) // 2
        candidate = evaluate(order[:middle])
        if sample.passes(candidate.accuracies, expected):
            best, high = candidate, middle
        else:
            low = middle + 1
    return best


def _by_sensitivity(mixed_model: MixedModel, reference: Reference, num_blocks: int, progress: Progress) -> list[int]:
    """All block indices, most sensitive first."""
    images = next(batches(reference.sample.calibration))
    errors = []
    for block in range(num_blocks):
        progress(block + 1, num_blocks + 1, f"sensitivity of block {block}")
        others = [other for other in range(num_blocks) if other != block]
        logits = mixed_model(others)(images).astype(np.float64)
        finite = bool(np.isfinite(logits).all())
        errors.append(float(np.square(logits - reference.logits).mean()) if finite else math.inf)
    return sorted(range(num_blocks), key=lambda block: -errors[block])
