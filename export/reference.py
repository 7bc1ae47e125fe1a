"""What the model itself answers: whatever is made of it is judged by that, and by nothing computed on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from toolkit.errors import CheckFailed
from toolkit.export.calibrate import Images, Predict, Sample, batches
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.models.resize import resized

FLOAT32 = 1e-4
"""Largest difference of two float32 computations of the same logits, as a share of the largest. It rounds near 1e-6."""


@dataclass(frozen=True)
class Reference:
    """The model's own answers on a sample."""

    sample: Sample
    logits: Images
    """[images, classes] for the first batch of the calibration images."""
    accuracies: tuple[float, ...]
    """For each part."""


def reference(model: Model, sample: Sample) -> Reference:
    """Ask the model as it was given, for images of the size that its file takes.

    Raises CheckFailed for a model whose logits are not finite, or that is not as right as training has measured.
    """
    module = resized(model, model.info.image_size).module
    with evaluating(module):
        accuracies = sample.accuracies(partial(answers, module))
        logits = answers(module, next(batches(sample.calibration)))
    faulty = [name for name, share in sample.by_domain(accuracies).items() if math.isnan(share)]
    if faulty:
        raise CheckFailed(
            f"the model gives logits that are not finite for images of {', '.join(faulty)}", "train the model first"
        )
    _check_trained(sample, accuracies)
    return Reference(sample, logits, accuracies)


def _check_trained(sample: Sample, accuracies: Sequence[float]) -> None:
    """An accuracy on n images strays from that on all validation images by less than 2 / sqrt(n), four times the
    largest standard error."""
    for part, found in zip(sample.parts, accuracies, strict=True):
        images, before = len(part.labels), sample.trained.get(part.domain, found)
        if abs(found - before) > 2 / math.sqrt(images):
            raise CheckFailed(
                f"the model is right for {found:.1%} of {images} images of {part.domain}, and was for {before:.1%} of "
                "the validation images when it was trained: what this file would be judged by is wrong",
                "train again with the libraries that are installed now: the images may be read in another way",
            )


def check_rewritten(known: Reference, predict: Predict) -> None:
    """Raise CheckFailed where a rewritten float32 module is not the model: what is decided on it would be worthless."""
    compared(known.logits, predict(next(batches(known.sample.calibration))), FLOAT32, "the rewritten model")


def answers(module: nn.Module, images: Images) -> Images:
    """Logits [images, classes] that torch computes."""
    with torch.inference_mode():
        logits: Images = module(torch.from_numpy(images)).numpy()
    return logits


def compared(expected: Images, found: Images, tolerance: float | None, what: str = "the exported model") -> float:
    """Largest difference of two sets of logits [batch, classes]; CheckFailed above `tolerance` times the largest logit,
    or where they cannot be compared. `what` gave those that were found."""
    scale = float(np.abs(expected).max())
    if not np.isfinite(scale) or scale == 0.0:
        raise CheckFailed(
            f"the model's largest logit is {scale}: its export cannot be compared with it", "train the model first"
        )
    if found.shape != expected.shape:
        raise CheckFailed(f"{what} gives {found.shape} logits, torch {expected.shape}")
    if not np.isfinite(found).all():
        raise CheckFailed(f"{what} gives logits that are not finite")
    largest = float(np.abs(expected - found).max())
    if tolerance is not None and largest > tolerance * scale:
        raise CheckFailed(f"{what}'s logits differ from torch's by {largest:.2g}, their scale is {scale:.2g}")
    return largest
