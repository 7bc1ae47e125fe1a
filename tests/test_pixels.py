"""Inputs have the model's dtype and supported batch sizes, and every image gets its logits."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.pixels import Array, InputFormat, padded_batches
from toolkit.records import BatchRange

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = np.arange(5 * 3 * 2 * 2, dtype=np.float32).reshape(5, 3, 2, 2) / 30 - 1


class Recorded:
    """A model whose logits are the first two values of each image."""

    def __init__(self) -> None:
        self.inputs: list[Array] = []

    def __call__(self, images: Array) -> Array:
        self.inputs.append(images)
        logits: Array = images.reshape(len(images), -1)[:, :2].astype(np.float32)
        return logits


@pytest.mark.parametrize(
    ("batch", "calls"),
    [
        (BatchRange(), [5]),
        (BatchRange.of([2]), [2, 2, 2]),
        (BatchRange.of([8]), [8]),
        (BatchRange(2, most=4), [4, 2]),
        (BatchRange.of([1, 2, 3]), [3, 2]),
    ],
    ids=str,
)
def test_batches_have_a_supported_size(batch: BatchRange, calls: list[int]) -> None:
    model = Recorded()
    logits = InputFormat("float32", MEAN, STD, batch).logits(model, IMAGES)
    assert [len(images) for images in model.inputs] == calls
    np.testing.assert_array_equal(logits, IMAGES.reshape(5, -1)[:, :2])


def test_a_batch_is_padded_with_its_first_image() -> None:
    (batch,) = padded_batches(IMAGES[:2], BatchRange.of([4]))
    np.testing.assert_array_equal(batch, IMAGES[[0, 1, 0, 0]])


def test_models_of_pixels_get_pixels() -> None:
    model = Recorded()
    InputFormat("uint8", (0.5,) * 3, (0.25,) * 3, BatchRange()).logits(model, IMAGES)
    assert model.inputs[0].dtype == np.uint8
    assert model.inputs[0][0, 0, 0, 0] == round((-1 * 0.25 + 0.5) * 255)


def test_encoding_inverts_decoding() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 5), dtype=np.uint8)
    file = InputFormat("uint8", MEAN, STD, BatchRange())
    images = file.decode(pixels)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (MEAN, STD))
    np.testing.assert_allclose(images, (pixels / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(file.encode(images), pixels)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_random_input_has_the_format_of_the_file(dtype: str) -> None:
    images = InputFormat(dtype, MEAN, STD, BatchRange()).random(2, 4)
    assert (images.dtype, images.shape) == (dtype, (2, 3, 4, 4))
    assert np.ptp(images) > 1
