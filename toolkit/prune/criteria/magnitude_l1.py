"""Magnitude |w|: small weights are less important (Han et al., 2015; Li et al., 2017 for whole filters)."""

from __future__ import annotations

from torch import nn

from toolkit.models.groups import Groups, Scores
from toolkit.prune.calibration import Calibration
from toolkit.prune.criteria import Criterion


class MagnitudeL1:
    """Sum of |w| over a unit's coupled weights."""

    def score(self, model: nn.Module, calibration: Calibration, groups: Groups) -> Scores:
        return groups.reduce(lambda name, weight: weight.abs())


PLUGIN: Criterion = MagnitudeL1()
