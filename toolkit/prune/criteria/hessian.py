"""Second-order importance with a diagonal Hessian (LeCun et al., "Optimal brain damage", 1990).

The Hessian is approximated by the diagonal of the empirical Fisher matrix, from per-sample gradients (Theis et al.,
2018).
"""

from __future__ import annotations

from torch import nn

from toolkit.models.groups import Groups, Scores
from toolkit.prune.calibration import Calibration
from toolkit.prune.criteria import Criterion
from toolkit.prune.gradients import mean_squared_gradients


class Hessian:
    """1/2 w^2 E_i[(dL_i/dw)^2], summed over a unit's coupled weights."""

    def score(self, model: nn.Module, calibration: Calibration, groups: Groups) -> Scores:
        fisher = mean_squared_gradients(model, calibration.load())
        return groups.reduce(lambda name, weight: 0.5 * weight.square() * fisher[name])


PLUGIN: Criterion = Hessian()
