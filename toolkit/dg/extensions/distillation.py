"""Knowledge distillation from a teacher's logits (Hinton, Vinyals and Dean, 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from toolkit.dg.batches import Batch
from toolkit.dg.extensions import TrainingExtension
from toolkit.dg.objectives import Classifier
from toolkit.dg.transforms import resampled
from toolkit.models.model import Model


class Distillation(TrainingExtension):
    """(1 - weight) * loss + weight * T^2 * KL(teacher || student), both softened by the temperature T.

    The factor T^2 keeps gradient magnitudes independent of T. The teacher gets the same augmented images; its weights
    are fixed.
    """

    name = "distillation"

    def __init__(self, teacher: nn.Module, weight: float, temperature: float) -> None:
        self.teacher = teacher
        self.weight = weight
        self.temperature = temperature

    def loss(self, step: int, model: Classifier, batches: Sequence[Batch], loss: Tensor, logits: Tensor) -> Tensor:
        images = torch.cat([batch.images for batch in batches])
        with torch.no_grad():
            teacher_logits = self.teacher.to(images.device).eval()(images)
        divergence = softened_divergence(teacher_logits, logits, self.temperature)
        return (1 - self.weight) * loss + self.weight * divergence


class Resampled(nn.Module):
    """A teacher's module; images of another size than the teacher's are resampled for it."""

    def __init__(self, teacher: Model) -> None:
        super().__init__()
        self.module, self.image_size = teacher.module, teacher.info.image_size

    def forward(self, images: Tensor) -> Tensor:
        """images: [batch, 3, S, S]; logits [batch, classes]."""
        logits: Tensor = self.module(resampled(images, self.image_size))
        return logits


def softened_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), averaged over images, from logits [batch, classes]."""
    target, input_ = log_softmax(teacher / temperature, dim=-1), log_softmax(student / temperature, dim=-1)
    return temperature**2 * kl_div(input_, target, reduction="batchmean", log_target=True)
