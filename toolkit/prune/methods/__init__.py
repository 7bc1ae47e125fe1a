"""How a model is pruned: one file per published method, found by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from toolkit import plugins, recipe
from toolkit.models.source import LoadedModel
from toolkit.progress import Progress
from toolkit.prune.criteria import Calibration
from toolkit.records import PrunePlan

Fit = Callable[[LoadedModel], None]
"""Trains a model in place on the source domains, for methods that prune while training."""


@dataclass(frozen=True)
class Job:
    """What a method gets besides the model."""

    settings: recipe.Prune
    calibration: Calibration
    fit: Fit
    report: Progress


class Method(Protocol):
    def prune(self, model: LoadedModel, job: Job) -> PrunePlan:
        """A plan for `model`, which stays as it is."""
        ...


def method(name: str) -> Method:
    return cast(Method, plugins.load(__name__, name))
