"""Gradients of the training loss over calibration images, in the two forms that criteria need."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit.errors import DataError
from toolkit.models.modes import evaluating
from toolkit.prune.criteria import Batch

Gradients = dict[str, Tensor]
"""One tensor for each parameter, of its shape."""

CHUNK_ELEMENTS = 1 << 26
"""Gradient elements held at a time (256 MB in float32): bounds how many samples are vectorised together."""
LARGEST_CHUNK = 8
"""More samples at once are no faster on a processor and only take memory."""


def mean_gradients(model: nn.Module, batches: Sequence[Batch]) -> Gradients:
    """dL/dw of the cross-entropy, averaged over all samples."""
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
    """(dL_i/dw)^2 of every sample's own cross-entropy L_i, averaged: the diagonal of the empirical Fisher matrix.

    The square is taken sample by sample. (A batch's gradient squared would cancel samples against each other.)
    """
    samples = _sample_count(batches)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    elements = sum(parameter.numel() for parameter in parameters.values())
    chunk = max(1, min(LARGEST_CHUNK, CHUNK_ELEMENTS // elements))

    def loss(weights: Gradients, image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (image[None],)), label[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    with evaluating(model), sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no rule for vmap
        for images, labels in batches:
            for start in range(0, len(images), chunk):
                gradients = each(parameters, images[start : start + chunk], labels[start : start + chunk])
                for name, gradient in gradients.items():
                    total[name] += gradient.square().sum(dim=0) / samples
    return total


def _sample_count(batches: Sequence[Batch]) -> int:
    count = sum(len(images) for images, _ in batches)
    if count == 0:
        raise DataError("there is no calibration image to take gradients on")
    return count
