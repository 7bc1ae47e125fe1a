"""How a model is pruned: one file per published method, found by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from toolkit import plugins, recipe
from toolkit.models.model import Model
from toolkit.progress import Progress
from toolkit.prune.criteria import Calibration
from toolkit.records import PrunePlan


@dataclass(frozen=True)
class Job:
    """What a method gets besides the model."""

    settings: recipe.Prune
    calibration: Calibration
    report: Progress


class Method(Protocol):
    def prune(self, model: Model, job: Job) -> PrunePlan:
        """A plan for `model`, which stays as it is."""
        ...


def method(name: str) -> Method:
    return cast(Method, plugins.load(__name__, name))
