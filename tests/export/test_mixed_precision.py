"""The fewest blocks that keep the accuracy stay float32, the most sensitive first."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest

from toolkit.errors import CheckFailed
from toolkit.export.calibrate import DomainSample, Predict, Sample
from toolkit.export.mixed_precision import MixedModel, select_fp32_blocks
from toolkit.export.reference import Reference
from toolkit.pixels import Array
from toolkit.progress import silent

LABELS = np.arange(100) % 2
IMAGES = LABELS.astype(np.float32).reshape(100, 1, 1, 1)
"""The value of an image is its class."""
SAMPLE = Sample(IMAGES, (DomainSample("only", IMAGES, LABELS),), margin=0.02)


def correct(images: Array) -> Array:
    return np.eye(2, dtype=np.float32)[images.reshape(len(images)).astype(int)]


REFERENCE = Reference(SAMPLE, correct(IMAGES[:32]), (1.0,))


def model_losing(losses: dict[int, float]) -> MixedModel:
    """A model that loses this fraction of its accuracy for each block in lower precision."""

    def mixed_model(fp32_blocks: Collection[int]) -> Predict:
        loss = sum(fraction for block, fraction in losses.items() if block not in fp32_blocks)

        def predict(images: Array) -> Array:
            logits = correct(images)
            wrong = round(loss * len(images))
            logits[:wrong] = logits[:wrong, ::-1]
            return logits

        return predict

    return mixed_model


def test_no_block_stays_in_fp32_if_the_accuracy_stays() -> None:
    assert select_fp32_blocks(model_losing({}), REFERENCE, 6, silent).blocks == ()


def test_only_the_sensitive_blocks_stay_in_fp32() -> None:
    selected = select_fp32_blocks(model_losing({1: 0.2, 4: 0.5, 5: 0.01}), REFERENCE, 6, silent)
    assert selected.blocks == (4, 1)
    assert selected.accuracies[0] >= 0.98


def test_a_loss_outside_of_the_blocks_is_an_error() -> None:
    with pytest.raises(CheckFailed, match="even with all blocks in fp32"):
        select_fp32_blocks(model_losing({99: 0.5}), REFERENCE, 6, silent)


def test_logits_that_are_not_finite_never_pass() -> None:
    """argmax of NaNs is class 0, the class of half of the images."""
    sample = replace(SAMPLE, margin=0.9)

    def mixed_model(fp32_blocks: Collection[int]) -> Predict:
        return correct if 2 in fp32_blocks else lambda images: correct(images) * np.float32(np.nan)

    assert select_fp32_blocks(mixed_model, replace(REFERENCE, sample=sample), 4, silent).blocks == (2,)
    with pytest.raises(CheckFailed, match=r"drops from 100.0% to NaN"):
        select_fp32_blocks(lambda blocks: lambda images: correct(images) * np.float32(np.nan), REFERENCE, 4, silent)


def test_a_loss_of_exactly_the_margin_passes() -> None:
    sample = replace(SAMPLE, margin=0.1)
    assert 0.8 - 0.1 > 0.7, "in float64"
    assert sample.passes((0.7,), (0.8,))
    assert not sample.passes((0.69999,), (0.8,))


def test_a_sample_without_images_is_an_error() -> None:
    with pytest.raises(CheckFailed, match="no images"):
        Sample(IMAGES, (), 0.01)
    with pytest.raises(CheckFailed, match="no images"):
        Sample(IMAGES[:0], SAMPLE.domains, 0.01)
