"""Magnitude as Euclidean norm: small weights are less important (Han et al., 2015)."""

from __future__ import annotations

from torch import nn

from toolkit.models.groups import Groups, Scores
from toolkit.prune.calibration import Calibration
from toolkit.prune.criteria import Criterion


class MagnitudeL2:
    """Square root of the sum of w^2 over a unit's coupled weights."""

    def score(self, model: nn.Module, calibration: Calibration, groups: Groups) -> Scores:
        squares = groups.reduce(lambda name, weight: weight.square())
        return {key: square.sqrt() for key, square in squares.items()}


PLUGIN: Criterion = MagnitudeL2()
