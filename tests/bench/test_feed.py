"""Images are given as a file takes them, and all are answered."""

from __future__ import annotations

from types import TracebackType

import numpy as np
import pytest

from toolkit.bench.feed import answers
from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Session
from toolkit.errors import BadInput
from toolkit.preprocessing import Preprocessing
from toolkit.records import ModelInfo

PREPARED = Preprocessing((0.5,) * 3, (0.25,) * 3, "bicubic", 1.0, "squash", "timm")
MODEL = ModelInfo("name", {}, ("a", "b"), 2, PREPARED, (), (), 1, 1, "00")


class Echo:
    """Answers with the first two values of each image, and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []

    def run(self, images: np.ndarray) -> np.ndarray:
        self.given.append(images)
        return images.reshape(len(images), -1)[:, :2].astype(np.float32)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


IMAGES = np.arange(5 * 3 * 2 * 2, dtype=np.float32).reshape(5, 3, 2, 2) / 30 - 1


@pytest.mark.parametrize(("batch", "calls"), [(None, [5]), (2, [2, 2, 2]), (8, [8])])
def test_a_fixed_batch_is_filled_up_and_cut_off(batch: int | None, calls: list[int]) -> None:
    session = Echo()
    found = answers(session, IMAGES, Identity("00", MODEL, batch=batch))
    assert [len(images) for images in session.given] == calls
    np.testing.assert_array_equal(found, IMAGES.reshape(5, -1)[:, :2])


def test_an_engines_limits_are_kept() -> None:
    session = Echo()
    found = answers(session, IMAGES, Identity("00", MODEL, least=2, most=4))
    assert [len(images) for images in session.given] == [4, 2]
    np.testing.assert_array_equal(found, IMAGES.reshape(5, -1)[:, :2])


def test_pixels_for_a_file_that_takes_them() -> None:
    session = Echo()
    answers(session, IMAGES, Identity("00", MODEL, dtype="uint8"))
    assert session.given[0].dtype == np.uint8
    assert session.given[0][0, 0, 0, 0] == round((-1 * 0.25 + 0.5) * 255)


def test_a_batch_that_a_file_does_not_take() -> None:
    Identity("00", MODEL).check_batch(1000)
    Identity("00", MODEL, batch=8).check_batch(8)
    with pytest.raises(BadInput, match="takes 8 images a call, not 1"):
        Identity("00", MODEL, batch=8).check_batch(1)
    with pytest.raises(BadInput, match="1 to 64 images a call, not 65"):
        Identity("00", MODEL, most=64).check_batch(65)
    with pytest.raises(BadInput, match="2 to 64 images a call, not 1"):
        Identity("00", MODEL, least=2, most=64).check_batch(1)
