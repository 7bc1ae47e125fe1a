"""Weight averaging: the mean of the weights after each step, from a start step on.

Simple moving average (Arpit et al., "Ensemble of averages", 2022); within distillation it replaces a search for flat
minima (WAKD, 2023). The average is evaluated, selected and kept; training is not affected.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from toolkit.dg.checkpoint import Weights, copied
from toolkit.dg.extensions import TrainingExtension


class WeightAveraging(TrainingExtension):
    """Equal mean of all parameters over the steps `first`, `first` + 1, ...; before that, the current weights."""

    name = "weight averaging"

    def __init__(self, module: nn.Module, first: int) -> None:
        self._module = module
        self._first = first
        self._average = AveragedModel(module)

    def after_step(self, step: int) -> None:
        if step >= self._first:
            self._average.to(next(self._module.parameters()).device)
            self._average.update_parameters(self._module)

    def evaluated(self, weights: Weights) -> Weights:
        if not self._average.n_averaged:
            return weights
        return copied(self._average.module)

    def state(self) -> Weights:
        return copied(self._average)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._average.load_state_dict(state)
