"""Training extensions: parts of the training loop besides the objective.

Distillation, weight averaging, and the parts of pruning methods that train. An extension is bound to the module that is
trained; its state is part of the checkpoint, so that a resumed run ends with the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor, nn

from toolkit.dg.batches import Batch
from toolkit.dg.checkpoint import Weights
from toolkit.dg.objectives import Classifier
from toolkit.models.model import Model


class TrainingExtension(Protocol):
    """Hooks of the training loop; the inherited ones have no effect. Steps are numbered from 0."""

    name: str
    """Name in the training history: "erm and distillation"."""
    modules: nn.Module | None = None
    """Additional trained parameters: a parameter group of its own, clipped on its own, without weight decay, and part
    of the checkpoint. They may be parameters of the model, which are then trained in this group only."""
    learning_rate: float | None = None
    """Peak learning rate of `modules`; None: that of the model."""

    frozen: Sequence[nn.Parameter] = ()
    """Parameters of the model that are not trained."""
    reference: Model | None = None
    """A model to compare predictions on validation images with: the agreement is part of the training history."""

    def batches(self, step: int, batches: Sequence[Batch]) -> Sequence[Batch]:
        """The batches to train on in place of these."""
        return batches

    def observing(self) -> AbstractContextManager[None]:
        """A context of the objective's forward pass."""
        return nullcontext()

    def loss(self, step: int, model: Classifier, batches: Sequence[Batch], loss: Tensor, logits: Tensor) -> Tensor:
        """The loss to minimise, a scalar; `loss` and `logits` are those of the objective, or of the extension before
        this one."""
        return loss

    def after_step(self, step: int) -> None:
        """Called after the optimiser's update of each step."""
        return

    def evaluated(self, weights: Weights) -> Weights:
        """The weights that are evaluated and kept in place of the current ones; copies on the CPU."""
        return weights

    def may_select(self, steps: int) -> bool:
        """Whether the state after this number of steps may be selected."""
        return True

    def state(self) -> dict[str, Tensor]:
        """State that a resumed run needs besides `modules`, without references to tensors that change."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a result of `state`."""
        return
