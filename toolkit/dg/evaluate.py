"""Predictions and accuracy of a model on images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toolkit.dg.batches import evaluation_batches
from toolkit.dg.image import Image
from toolkit.records import ModelInfo

Predictions: TypeAlias = npt.NDArray[np.int64]
"""[images] class indices."""


def accuracy(
    module: nn.Module, images: Sequence[Image], info: ModelInfo, batch_size: int, workers: int | None = None
) -> float:
    """Top-1 accuracy, 0 to 1; see `predictions`."""
    return agreement(predictions(module, images, info, batch_size, workers), labels_of(images))


def labels_of(images: Sequence[Image]) -> Predictions:
    """Labels of the images, in order: [images]"""
    return np.array([image.label for image in images], dtype=np.int64)


def agreement(one: Predictions, other: Predictions) -> float:
    """Fraction of equal class indices, 0 to 1."""
    return float((one == other).mean())


def predictions(
    module: nn.Module, images: Sequence[Image], info: ModelInfo, batch_size: int, workers: int | None = None
) -> Predictions:
    """Class indices [images], in order, computed on the module's device in evaluation mode; the mode is restored
    afterwards.

    Raises DataError if there are no images.
    """
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    predicted = []
    try:
        with torch.inference_mode():
            for batch, _ in evaluation_batches(images, info, batch_size, workers):
                predicted.append(module(torch.from_numpy(batch).to(device)).argmax(dim=1).cpu().numpy())
    finally:
        module.train(was_training)
    return np.concatenate(predicted)
