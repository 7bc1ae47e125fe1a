"""Inputs are adapted to dtype and batch limits, and every image gets its logits."""

from __future__ import annotations

from types import TracebackType

import numpy as np
import pytest

from toolkit.bench.feed import predict_logits
from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Session
from toolkit.errors import BadInput
from toolkit.preprocessing import Preprocessing
from toolkit.records import ModelInfo

PREPROCESSING = Preprocessing((0.5,) * 3, (0.25,) * 3, "bicubic", 1.0, "squash", "timm")
MODEL = ModelInfo("name", {}, ("a", "b"), 2, PREPROCESSING, (), (), 1, 1, "00")


class Echo:
    """A session that returns the first two values of each image, and records its inputs."""

    def __init__(self) -> None:
        self.inputs: list[np.ndarray] = []

    def run(self, images: np.ndarray) -> np.ndarray:
        self.inputs.append(images)
        return images.reshape(len(images), -1)[:, :2].astype(np.float32)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


IMAGES = np.arange(5 * 3 * 2 * 2, dtype=np.float32).reshape(5, 3, 2, 2) / 30 - 1


@pytest.mark.parametrize(("batch", "calls"), [(None, [5]), (2, [2, 2, 2]), (8, [8])])
def test_batches_are_padded_to_a_fixed_batch_size(batch: int | None, calls: list[int]) -> None:
    session = Echo()
    logits = predict_logits(session, IMAGES, Identity("00", MODEL, fixed_batch=batch))
    assert [len(images) for images in session.inputs] == calls
    np.testing.assert_array_equal(logits, IMAGES.reshape(5, -1)[:, :2])


def test_batch_limits_of_an_engine_are_respected() -> None:
    session = Echo()
    logits = predict_logits(session, IMAGES, Identity("00", MODEL, min_batch=2, max_batch=4))
    assert [len(images) for images in session.inputs] == [4, 2]
    np.testing.assert_array_equal(logits, IMAGES.reshape(5, -1)[:, :2])


def test_uint8_models_get_raw_pixels() -> None:
    session = Echo()
    predict_logits(session, IMAGES, Identity("00", MODEL, dtype="uint8"))
    assert session.inputs[0].dtype == np.uint8
    assert session.inputs[0][0, 0, 0, 0] == round((-1 * 0.25 + 0.5) * 255)


def test_unsupported_batch_sizes_are_refused() -> None:
    Identity("00", MODEL).check_batch(1000)
    Identity("00", MODEL, fixed_batch=8).check_batch(8)
    with pytest.raises(BadInput, match="fixed batch size of 8, got 1"):
        Identity("00", MODEL, fixed_batch=8).check_batch(1)
    with pytest.raises(BadInput, match="batch sizes 1 to 64, not 65"):
        Identity("00", MODEL, max_batch=64).check_batch(65)
    with pytest.raises(BadInput, match="batch sizes 2 to 64, not 1"):
        Identity("00", MODEL, min_batch=2, max_batch=64).check_batch(1)
