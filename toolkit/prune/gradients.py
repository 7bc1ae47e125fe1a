"""Gradients of the training loss on calibration images: their mean, and the mean of their squares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit.dg.batches import Batch
from toolkit.errors import DataError
from toolkit.models.modes import evaluating

Gradients = dict[str, Tensor]
"""One tensor per parameter, of the parameter's shape."""

MAX_GRADIENT_ELEMENTS = 1 << 26
"""Maximum gradient elements in memory (256 MB in float32); limits how many samples are vectorised together."""
MAX_VECTORISED_SAMPLES = 8
"""Larger numbers are not faster on a CPU, and use more memory."""


def mean_gradients(model: nn.Module, batches: Sequence[Batch]) -> Gradients:
    """dL/dw of the cross-entropy, averaged over all samples."""
    batches = list(batches)
    samples = _sample_count(batches)
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    with evaluating(model):
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels, reduction="sum") / samples
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient
    return total


def mean_squared_gradients(model: nn.Module, batches: Sequence[Batch]) -> Gradients:
    """(dL_i/dw)^2 of each sample's cross-entropy L_i, averaged: the diagonal of the empirical Fisher matrix.

    Gradients are squared per sample: in a batch's gradient, samples would cancel.
    """
    batches = list(batches)
    samples = _sample_count(batches)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    elements = sum(parameter.numel() for parameter in parameters.values())
    chunk = max(1, min(MAX_VECTORISED_SAMPLES, MAX_GRADIENT_ELEMENTS // elements))

    def loss(weights: Gradients, image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (image[None],)), label[None])

    per_sample_gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    with evaluating(model), sdpa_kernel(SDPBackend.MATH):  # fused kernels do not support vmap
        for images, labels in batches:
            for start in range(0, len(images), chunk):
                gradients = per_sample_gradients(
                    parameters, images[start : start + chunk], labels[start : start + chunk]
                )
                for name, gradient in gradients.items():
                    total[name] += gradient.square().sum(dim=0) / samples
    return total


def _sample_count(batches: Sequence[Batch]) -> int:
    """Number of samples. DataError if there are none, or if all are of one class.

    With one class, the loss falls by raising its logit for any image: its gradient does not depend on what the model
    discerns.
    """
    classes = {label for _, labels in batches for label in labels.tolist()}
    if not classes:
        raise DataError("there are no calibration images to compute gradients on")
    if len(classes) == 1:
        raise DataError(
            f"all calibration images are of one class (number {classes.pop()}), so that gradients of the loss say "
            "nothing about the others",
            "raise --samples, or use a criterion without labels: --criterion magnitude-l2",
        )
    return sum(len(images) for images, _ in batches)
