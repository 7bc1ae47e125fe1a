"""As few blocks as will do stay float32, the most sensitive first."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest

from toolkit.errors import CheckFailed
from toolkit.export.calibrate import Images, Part, Predict, Sample
from toolkit.export.choose import Lowered, choose
from toolkit.export.reference import Reference
from toolkit.pixels import to_pixels
from toolkit.preprocessing import Preprocessing
from toolkit.progress import silent

LABELS = np.arange(100) % 2
IMAGES = LABELS.astype(np.float32).reshape(100, 1, 1, 1)
"""An image is its own class."""
SAMPLE = Sample(IMAGES, (Part("only", IMAGES, LABELS),), margin=0.02)


def right(images: Images) -> Images:
    return np.eye(2, dtype=np.float32)[images.reshape(len(images)).astype(int)]


KNOWN = Reference(SAMPLE, right(IMAGES[:32]), (1.0,))


def damaged_by(harm: dict[int, float]) -> Lowered:
    """A model each of whose blocks, in lower precision, takes this share of answers away, the first of the images."""

    def lowered(kept: Collection[int]) -> Predict:
        lost = sum(share for block, share in harm.items() if block not in kept)

        def predict(images: Images) -> Images:
            logits = right(images)
            wrong = round(lost * len(images))
            logits[:wrong] = logits[:wrong, ::-1]
            return logits

        return predict

    return lowered


def test_all_blocks_go_where_that_costs_nothing() -> None:
    assert choose(damaged_by({}), KNOWN, 6, silent).blocks == ()


def test_only_the_sensitive_ones_stay() -> None:
    choice = choose(damaged_by({1: 0.2, 4: 0.5, 5: 0.01}), KNOWN, 6, silent)
    assert choice.blocks == (4, 1)
    assert choice.accuracies[0] >= 0.98


def test_harm_outside_of_the_blocks_is_an_error() -> None:
    with pytest.raises(CheckFailed, match="even with all blocks in float32"):
        choose(damaged_by({99: 0.5}), KNOWN, 6, silent)


def test_logits_that_are_not_finite_are_no_answers() -> None:
    """The largest of NaNs is the first class, which half of the images are of."""
    sample = replace(SAMPLE, margin=0.9)

    def lowered(kept: Collection[int]) -> Predict:
        return right if 2 in kept else lambda images: right(images) * np.float32(np.nan)

    assert choose(lowered, replace(KNOWN, sample=sample), 4, silent).blocks == (2,)
    with pytest.raises(CheckFailed, match=r"falls from 100.0% to NaN"):
        choose(lambda kept: lambda images: right(images) * np.float32(np.nan), KNOWN, 4, silent)


def test_a_loss_of_exactly_the_margin_passes() -> None:
    sample = replace(SAMPLE, margin=0.1)
    assert 0.8 - 0.1 > 0.7, "in float64"
    assert sample.passes((0.7,), (0.8,))
    assert not sample.passes((0.69999,), (0.8,))


def test_a_sample_without_images_decides_nothing() -> None:
    with pytest.raises(CheckFailed, match="no images"):
        Sample(IMAGES, (), 0.01)
    with pytest.raises(CheckFailed, match="no images"):
        Sample(IMAGES[:0], SAMPLE.parts, 0.01)


def test_pixels_are_those_the_images_were_made_from() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 5), dtype=np.uint8)
    prepared = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 1.0, "squash", "timm")
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (prepared.mean, prepared.std))
    np.testing.assert_array_equal(to_pixels((pixels.astype(np.float32) / 255 - mean) / std, prepared), pixels)
