"""Logits, predictions and accuracy of a model on images, and the divergence of two models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toolkit.dg.batches import evaluation_batches
from toolkit.dg.image import Image
from toolkit.errors import CheckFailed
from toolkit.records import ModelInfo

Predictions: TypeAlias = npt.NDArray[np.int64]
"""[images] class indices."""
Logits: TypeAlias = npt.NDArray[np.float32]
"""[images, classes]"""


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
    outputs = _outputs(module, images, info, batch_size, workers)
    return np.concatenate([batch.argmax(dim=1).cpu().numpy() for batch in outputs])


def logits(
    module: nn.Module, images: Sequence[Image], info: ModelInfo, batch_size: int, workers: int | None = None
) -> Logits:
    """Logits [images, classes], computed as `predictions` are. Raises DataError if there are no images, CheckFailed for
    logits that are not finite."""
    found = np.concatenate([part.float().cpu().numpy() for part in _outputs(module, images, info, batch_size, workers)])
    if not np.isfinite(found).all():
        raise CheckFailed("the model computes logits that are not finite")
    return found


def divergence(reference: Logits, other: Logits) -> float:
    """KL(reference || other) of the predicted distributions in nats, a mean over images."""
    expected, actual = (torch.from_numpy(part).double().log_softmax(dim=1) for part in (reference, other))
    by_image = (expected.exp() * (expected - actual)).sum(dim=1)  # [images]
    return max(0.0, float(by_image.mean()))


def _outputs(
    module: nn.Module, images: Sequence[Image], info: ModelInfo, batch_size: int, workers: int | None
) -> Iterator[torch.Tensor]:
    """Logits of each batch of images: [batch, classes]."""
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    try:
        for batch, _ in evaluation_batches(images, info, batch_size, workers):
            with torch.inference_mode():
                yield module(torch.from_numpy(batch).to(device))
    finally:
        module.train(was_training)
