"""The model's own logits and accuracies, which every rewritten or exported version is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from toolkit.errors import CheckFailed
from toolkit.export.calibrate import Predict, Sample, batches
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.models.resize import resized
from toolkit.pixels import Array

FP32_TOLERANCE = 1e-4
"""Largest difference between two float32 computations of logits, as a fraction of the largest logit; rounding errors
are about 1e-6."""


@dataclass(frozen=True)
class Reference:
    """The model's own predictions on a sample."""

    sample: Sample
    logits: Array
    """[images, classes] for the first batch of the calibration images."""
    accuracies: tuple[float, ...]
    """For each domain of the sample."""


def compute_reference(model: Model, sample: Sample) -> Reference:
    """Run the unmodified model on images of the exported file's size.

    Raises CheckFailed if a logit is not finite, or if the accuracy is far from the one measured in training.
    """
    module = resized(model, model.info.image_size).module
    with evaluating(module):
        accuracies = sample.accuracies(partial(predict, module))
        logits = predict(module, next(batches(sample.calibration)))
    faulty = [name for name, accuracy in sample.by_domain(accuracies).items() if math.isnan(accuracy)]
    if faulty:
        raise CheckFailed(
            f"the model's logits for images of {', '.join(faulty)} are not finite", "train the model first"
        )
    _check_trained(sample, accuracies)
    return Reference(sample, logits, accuracies)


def _check_trained(sample: Sample, accuracies: Sequence[float]) -> None:
    """Compare with the accuracies from training: one on n images may differ by 2 / sqrt(n), four times the largest
    standard error."""
    for domain, accuracy in zip(sample.domains, accuracies, strict=True):
        images, trained = len(domain.labels), sample.trained_accuracy.get(domain.name, accuracy)
        if abs(accuracy - trained) > 2 / math.sqrt(images):
            raise CheckFailed(
                f"the model's accuracy on {images} images of {domain.name} is {accuracy:.1%}, but training measured "
                f"{trained:.1%} on the validation images: the export would be compared with a wrong reference",
                "train again with the installed library versions: they may decode or preprocess images differently",
            )


def check_rewritten(reference: Reference, predict_rewritten: Predict) -> None:
    """Raise CheckFailed if a rewritten float32 module's logits differ from the model's."""
    logits = predict_rewritten(next(batches(reference.sample.calibration)))
    max_difference(reference.logits, logits, FP32_TOLERANCE, "the rewritten model")


def predict(module: nn.Module, images: Array) -> Array:
    """PyTorch's logits [images, classes]."""
    with torch.inference_mode():
        logits: Array = module(torch.from_numpy(images)).numpy()
    return logits


def max_difference(
    expected: Array, actual: Array, tolerance: float | None, subject: str = "the exported model"
) -> float:
    """Largest absolute difference of two sets of logits [batch, classes].

    Raises CheckFailed above `tolerance` times the largest expected logit, or if they cannot be compared. `subject`: the
    source of `actual` in messages.
    """
    scale = float(np.abs(expected).max())
    if not np.isfinite(scale) or scale == 0.0:
        raise CheckFailed(
            f"the model's largest logit is {scale}: its export cannot be compared with it", "train the model first"
        )
    if actual.shape != expected.shape:
        raise CheckFailed(f"the logits of {subject} have shape {actual.shape}, PyTorch's {expected.shape}")
    if not np.isfinite(actual).all():
        raise CheckFailed(f"the logits of {subject} are not finite")
    largest = float(np.abs(expected - actual).max())
    if tolerance is not None and largest > tolerance * scale:
        raise CheckFailed(
            f"the logits of {subject} differ from PyTorch's by up to {largest:.2g} (largest logit: {scale:.2g})"
        )
    return largest
