"""Training objectives: what is minimised over one batch of every source domain.

A plug-in is a file whose `PLUGIN` builds an objective from a label loss. How labels are scored (cross-entropy, label
smoothing) is decided here once; what is done with the domains is the plug-in's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, cast

from torch import Tensor
from torch.nn import CrossEntropyLoss

from toolkit import plugins
from toolkit.dg.batches import Batch
from toolkit.recipe import Training

Classifier: TypeAlias = Callable[[Tensor], Tensor]
"""images [batch, 3, S, S] -> logits [batch, classes]"""

LabelLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""logits [batch, classes], labels [batch] -> their mean loss, a scalar"""


class Objective(Protocol):
    def __call__(self, model: Classifier, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """The loss, a scalar to go backward from, and the logits of all batches' images in their order.

        `batches` holds one batch of each source domain, all of the same size.
        """
        ...


class ObjectivePlugin(Protocol):
    def __call__(self, label_loss: LabelLoss) -> Objective: ...


def build(settings: Training) -> Objective:
    """The objective that a recipe names. Raises UnknownName with the closest names there are."""
    plugin = cast(ObjectivePlugin, plugins.load(__name__, settings.objective))
    return plugin(CrossEntropyLoss(label_smoothing=settings.label_smoothing))
