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
    """Class 1 for a bright picture; wrong on purpose while training."""

    def __init__(self) -> None:
        super().__init__()
        self.sign = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean(dim=(1, 2, 3), keepdim=False) * self.sign * (-1 if self.training else 1)
        return torch.stack([-bright, bright], dim=1)


def plain(grey: int, label: int) -> Image:
    return Image(f"{grey}", f"{grey}", label, np.full((8, 8, 3), grey, dtype=np.uint8))


def test_accuracy_is_the_share_of_right_images(tiny_info: ModelInfo) -> None:
    module = Brightness().train()
    images = [plain(0, 0), plain(50, 0), plain(200, 1), plain(250, 0), plain(20, 0)]
    assert accuracy(module, images, tiny_info, batch_size=2) == 0.8
    assert module.training


def test_no_images_is_an_error(tiny_info: ModelInfo) -> None:
    with pytest.raises(DataError, match="no images"):
        accuracy(Brightness(), [], tiny_info, batch_size=2)
