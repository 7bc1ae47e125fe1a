"""Judgement of small models by their divergence from the dense model on images that no weight was fitted to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from toolkit.dg.batches import Batch
from toolkit.models.modes import evaluating


class Judge:
    """KL(dense || small) of the predictions, a mean over images; over several domains, the mean or the worst one."""

    def __init__(self, dense: nn.Module, images: Mapping[str, Sequence[Batch]], worst: bool = False) -> None:
        """images: by source domain."""
        self._images = {domain: [batch.images for batch in batches] for domain, batches in images.items()}
        self._expected = {domain: _log_probabilities(dense, batches) for domain, batches in self._images.items()}
        self._worst = worst

    def divergence(self, module: nn.Module) -> float:
        """The divergence in nats; infinite if a logit is not finite."""
        by_domain = []
        for domain, batches in self._images.items():
            expected, actual = self._expected[domain], _log_probabilities(module, batches)
            by_image = (expected.exp() * (expected - actual)).sum(dim=-1)  # [images]
            by_domain.append(float(by_image.mean()))
        value = max(by_domain) if self._worst else sum(by_domain) / len(by_domain)
        return value if math.isfinite(value) else math.inf


def _log_probabilities(module: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    """[images, classes] float32"""
    with evaluating(module), torch.inference_mode():
        return torch.cat([log_softmax(module(images).float(), dim=-1) for images in batches])
