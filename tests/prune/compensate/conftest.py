"""Errors of compensated models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from toolkit.dg.batches import Batch
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import compensation
from toolkit.records import Cut


@pytest.fixture
def logits_error(small: Callable[..., Model], calibration: Calibration, batches: list[Batch]) -> Callable[[str], float]:
    """`logits_error(name)`: mean squared error of the logits after a removal along three axes and compensation."""
    model = small()
    cuts = (
        Cut("blocks.0.mlp", "mlp", tuple(range(0, 48, 3))),
        Cut("blocks.0.attn", "v", (2, 3, 17)),
        Cut("blocks.1.attn", "head", (1,)),
    )

    def error(name: str) -> float:
        repaired = compensation(name).repair(model, remove(model, cuts), calibration)
        with torch.inference_mode():
            expected, actual = (
                torch.cat([each.module.eval()(batch.images) for batch in batches]) for each in (model, repaired)
            )
        return float((actual - expected).square().mean())

    return error
