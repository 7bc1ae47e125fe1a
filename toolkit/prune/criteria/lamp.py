"""LAMP: magnitude relative to the remaining units (Lee et al., "Layer-adaptive sparsity for the magnitude-based
pruning", ICLR 2021), applied to structured units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.models.groups import Groups, Scores
from toolkit.prune.calibration import Calibration
from toolkit.prune.criteria import Criterion


class Lamp:
    """|w_u|^2 / sum of |w_v|^2 over the units v of the same group that are at least as large.

    The largest unit of every group scores 1. The scope `global` divides these scores by the mean of their group, as it
    does for any criterion; the paper compares them without normalisation.
    """

    def score(self, model: nn.Module, calibration: Calibration, groups: Groups) -> Scores:
        squares = groups.reduce(lambda name, weight: weight.square())
        return {key: relative_to_survivors(square) for key, square in squares.items()}


def relative_to_survivors(squares: Tensor) -> Tensor:
    """`squares` [units], each divided by the sum of itself and all larger ones, [units]."""
    ascending = torch.argsort(squares, stable=True)
    ordered = squares[ascending]
    survivors = ordered.flip(0).cumsum(0).flip(0)
    return torch.empty_like(squares).index_copy(0, ascending, ordered / survivors.clamp_min(1e-300))


PLUGIN: Criterion = Lamp()
