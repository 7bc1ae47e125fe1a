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
    """Top-1 accuracy, 0 to 1, computed on the module's device in evaluation mode; the mode is restored afterwards.

    Raises DataError if there are no images.
    """
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    correct = 0
    try:
        with torch.inference_mode():
            for batch, labels in evaluation_batches(images, info, batch_size, workers):
                predicted = module(torch.from_numpy(batch).to(device)).argmax(dim=1).cpu()
                correct += int((predicted == torch.from_numpy(labels)).sum())
    finally:
        module.train(was_training)
    return correct / len(images)
