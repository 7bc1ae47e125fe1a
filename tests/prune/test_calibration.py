"""Calibration images: halves and other sizes keep what the calibration is for."""

from __future__ import annotations

import torch

from toolkit.dg.batches import Batch
from toolkit.prune.calibration import Calibration

IMAGES = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 8, 8)
CALIBRATION = Calibration(lambda names: [Batch(IMAGES, torch.arange(5)) for _ in names], ("a", "b"), 7, "worst")


def test_halves_share_the_images_of_every_domain() -> None:
    halves = CALIBRATION.halves()
    labels = [[batch.labels.tolist() for batch in half.of("b")] for half in halves]
    assert labels == [[[0, 2, 4]], [[1, 3]]]
    assert [len(half.load()) for half in halves] == [2, 2]
    assert {(half.domains, half.seed, half.aggregate) for half in halves} == {(("a", "b"), 7, "worst")}


def test_another_size() -> None:
    smaller = CALIBRATION.at(4)
    assert [batch.images.shape[-1] for batch in smaller.load()] == [4, 4]
    assert (smaller.domains, smaller.seed, smaller.aggregate) == (("a", "b"), 7, "worst")
