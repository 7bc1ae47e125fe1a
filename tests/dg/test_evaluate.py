from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from toolkit.dg.evaluate import accuracy
from toolkit.dg.image import Image
from toolkit.errors import DataError
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
