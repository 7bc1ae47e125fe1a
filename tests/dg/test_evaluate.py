from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from toolkit.dg.evaluate import accuracy, divergence, logits, predictions
from toolkit.dg.image import Image
from toolkit.errors import CheckFailed, DataError
from toolkit.records import ModelInfo


class Brightness(nn.Module):
    """Predicts class 1 for bright images; deliberately wrong in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.sign = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean(dim=(1, 2, 3), keepdim=False) * self.sign * (-1 if self.training else 1)
        return torch.stack([-bright, bright], dim=1)


def uniform(grey: int, label: int) -> Image:
    return Image(f"{grey}", f"{grey}", label, np.full((8, 8, 3), grey, dtype=np.uint8))


def test_accuracy_is_the_fraction_of_correct_predictions(tiny_info: ModelInfo) -> None:
    module = Brightness().train()
    images = [uniform(0, 0), uniform(50, 0), uniform(200, 1), uniform(250, 0), uniform(20, 0)]
    assert accuracy(module, images, tiny_info, batch_size=2) == 0.8
    assert module.training


def test_no_images_is_an_error(tiny_info: ModelInfo) -> None:
    with pytest.raises(DataError, match="no images"):
        accuracy(Brightness(), [], tiny_info, batch_size=2)


def test_predictions_are_the_largest_logits(tiny_info: ModelInfo) -> None:
    module, images = Brightness(), [uniform(grey, 0) for grey in (0, 50, 200, 250, 20)]
    found = logits(module, images, tiny_info, batch_size=2)
    assert (found.shape, found.dtype) == ((5, 2), np.float32)
    assert found.argmax(axis=1).tolist() == predictions(module, images, tiny_info, batch_size=3).tolist()


def test_logits_that_are_not_finite_are_an_error(tiny_info: ModelInfo) -> None:
    module = Brightness()
    torch.nn.init.constant_(module.sign, torch.nan)
    with pytest.raises(CheckFailed, match="not finite"):
        logits(module, [uniform(9, 0)], tiny_info, batch_size=2)


def test_divergence_is_that_of_the_predicted_distributions() -> None:
    """Two images, two classes: sum of p log(p / q), by hand."""
    reference = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], dtype=np.float32))
    other = np.log(np.array([[0.25, 0.75], [0.9, 0.1]], dtype=np.float32)) + np.float32(7)  # logits have no origin
    first = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert divergence(reference, other) == pytest.approx(first / 2, abs=1e-6)
    assert divergence(other, reference) != pytest.approx(first / 2, abs=1e-3), "it is not symmetric"
    assert divergence(reference, reference) == 0
