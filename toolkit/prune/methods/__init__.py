"""Pruning methods: one file per published method, found by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from toolkit import plugins, recipe
from toolkit.models.model import Model
from toolkit.progress import Progress
from toolkit.prune.criteria import Calibration
from toolkit.records import PrunePlan
from toolkit.section import Section

KIND = "method"


@dataclass(frozen=True)
class Job:
    """Arguments of a method besides the model."""

    settings: recipe.Prune
    calibration: Calibration
    progress: Progress


class Method(Protocol):
    def prune(self, model: Model, job: Job) -> PrunePlan:
        """A plan for `model`, which is not changed."""
        ...


def method(name: str, own: Section | None = None) -> Method:
    """The method of this name with its own settings (None: its defaults). Raises UnknownName with the closest names."""
    return cast(Method, plugins.load(__name__, name, own))
