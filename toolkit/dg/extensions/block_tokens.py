"""Comparison of a student's tokens with a teacher's."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, mse_loss

from toolkit.models.model import Model
from toolkit.models.recording import Recorded, recording


def normalised(tokens: Tensor) -> Tensor:
    """Tokens [..., width] after a layer norm without gain and bias, in float32."""
    return layer_norm(tokens.float(), tokens.shape[-1:])


def difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of normalised tokens [batch, tokens, width]; those of the teacher are normalised already."""
    return mse_loss(normalised(student), teacher)


@torch.no_grad()
def probe(model: Model, blocks: Collection[int]) -> Recorded:
    """Tokens and merges of a blank image; the model's mode is kept."""
    training = model.module.training
    device = next(model.module.parameters()).device
    with recording(model, blocks) as recorded:
        model.module.eval()(torch.zeros(1, 3, model.info.image_size, model.info.image_size, device=device))
    model.module.train(training)
    return recorded
