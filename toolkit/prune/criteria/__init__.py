"""How important a unit is: one file per score, found by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

from torch import Tensor, nn

from toolkit import plugins
from toolkit.models.groups import Groups, Scores

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Images [batch, 3, S, S] and their labels [batch] int64."""


@dataclass(frozen=True)
class Calibration:
    """What a criterion may look at. `load` decodes the images, so criteria that need none cost nothing."""

    load: Callable[[], Sequence[Batch]]
    seed: int


class Criterion(Protocol):
    def score(self, model: nn.Module, calibration: Calibration, groups: Groups) -> Scores:
        """Importance of every unit of every group; higher is more important. Leaves the model as it was."""
        ...


def criterion(name: str) -> Criterion:
    return cast(Criterion, plugins.load(__name__, name))
