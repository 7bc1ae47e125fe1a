"""Importance criteria of units: one file per criterion, found by its name."""

from __future__ import annotations

from typing import Protocol, cast

from torch import nn

from toolkit import plugins
from toolkit.models.groups import Groups, Scores
from toolkit.prune.calibration import Calibration
from toolkit.section import Section

KIND = "criterion"


class Criterion(Protocol):
    def score(self, model: nn.Module, calibration: Calibration, groups: Groups) -> Scores:
        """Importance of every unit of every group; higher is more important. Does not change the model."""
        ...


def criterion(name: str, own: Section | None = None) -> Criterion:
    """The criterion of this name with its own settings (None: its defaults).

    Raises UnknownName with the closest names.
    """
    return cast(Criterion, plugins.load(__name__, name, own))
