"""Training objectives: losses over one batch of every source domain.

A plug-in is a file whose `PLUGIN` builds an objective from a label loss. The label loss (cross-entropy with label
smoothing) is the same for all objectives; how domains are combined is up to the plug-in.

One that learns from a teacher instead of labels is a `TeacherPlugin` (`toolkit/dg/extensions/teaching.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, cast

from torch import Tensor
from torch.nn import CrossEntropyLoss

from toolkit import plugins
from toolkit.dg.batches import Batch
from toolkit.recipe import Training

KIND = "objective"


Classifier: TypeAlias = Callable[[Tensor], Tensor]
"""images [batch, 3, S, S] -> logits [batch, classes]"""

LabelLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""logits [batch, classes], labels [batch] -> mean loss, a scalar"""


class Objective(Protocol):
    def __call__(self, model: Classifier, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """The loss, a differentiable scalar, and the logits of all images, in the order of `batches`.

        `batches` holds one batch of each source domain, all of the same size.
        """
        ...


class ObjectivePlugin(Protocol):
    def __call__(self, label_loss: LabelLoss) -> Objective:
        """The objective with this label loss."""
        ...


def plugin_of(settings: Training) -> ObjectivePlugin:
    """The plug-in named in the settings. Raises UnknownName with the closest names."""
    return cast(ObjectivePlugin, plugins.load(__name__, settings.objective, settings.own(settings.objective)))


def build(settings: Training) -> Objective:
    """The objective named in the settings. Raises UnknownName with the closest names."""
    return plugin_of(settings)(CrossEntropyLoss(label_smoothing=settings.label_smoothing))
