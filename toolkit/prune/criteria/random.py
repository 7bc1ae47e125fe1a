"""Random importance: the baseline for all other criteria."""

from __future__ import annotations

import torch
from torch import nn

from toolkit.models.groups import Groups, Scores
from toolkit.prune.calibration import Calibration
from toolkit.prune.criteria import Criterion


class Random:
    """Uniform in [0, 1), seeded with the run's seed."""

    def score(self, model: nn.Module, calibration: Calibration, groups: Groups) -> Scores:
        generator = torch.Generator().manual_seed(calibration.seed)
        return {group.key: torch.rand(group.units, generator=generator, dtype=torch.float64) for group in groups}


PLUGIN: Criterion = Random()
