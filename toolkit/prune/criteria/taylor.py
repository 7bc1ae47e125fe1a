"""First-order Taylor importance (Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019)."""

from __future__ import annotations

from torch import nn

from toolkit.models.groups import Groups, Scores
from toolkit.prune.calibration import Calibration
from toolkit.prune.criteria import Criterion
from toolkit.prune.gradients import mean_gradients


class Taylor:
    """|w * dL/dw| with the mean gradient over the calibration images, summed over a unit's coupled weights."""

    def score(self, model: nn.Module, calibration: Calibration, groups: Groups) -> Scores:
        gradients = mean_gradients(model, calibration.load())
        return groups.reduce(lambda name, weight: (weight * gradients[name]).abs())


PLUGIN: Criterion = Taylor()
