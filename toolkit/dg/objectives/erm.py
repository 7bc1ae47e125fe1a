"""Empirical risk minimisation: the mean loss over the images of all domains (Vapnik, 1998).

A strong baseline if models are selected on the source domains (Gulrajani and Lopez-Paz, 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.dg.batches import Batch
from toolkit.dg.objectives import Classifier, LabelLoss, ObjectivePlugin


@dataclass(frozen=True)
class Erm:
    """Mean label loss over all images."""

    label_loss: LabelLoss

    def __call__(self, model: Classifier, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        logits = model(torch.cat([batch.images for batch in batches]))
        return self.label_loss(logits, torch.cat([batch.labels for batch in batches])), logits


PLUGIN: ObjectivePlugin = Erm
