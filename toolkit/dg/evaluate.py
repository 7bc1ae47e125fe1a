"""Accuracy of a model on images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from toolkit.dg.batches import evaluation_batches
from toolkit.dg.image import Image
from toolkit.records import ModelInfo


def accuracy(
    module: nn.Module, images: Sequence[Image], info: ModelInfo, batch_size: int, workers: int | None = None
) -> float:
    """Share of images whose largest logit is their label's, 0 to 1; measured on the module's device.

    The module is in evaluation mode meanwhile. Raises DataError where there are no images.
    """
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    right = 0
    try:
        with torch.inference_mode():
            for batch, labels in evaluation_batches(images, info, batch_size, workers):
                predicted = module(torch.from_numpy(batch).to(device)).argmax(dim=1).cpu()
                right += int((predicted == torch.from_numpy(labels)).sum())
    finally:
        module.train(was_training)
    return right / len(images)
