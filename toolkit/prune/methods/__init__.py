"""Pruning methods: one file per published method, found by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, cast

from toolkit import plugins, recipe
from toolkit.dg.extensions import TrainingExtension
from toolkit.errors import DataError
from toolkit.models.model import Model
from toolkit.progress import Progress, silent
from toolkit.prune.budget import Budget, budget_of
from toolkit.prune.calibration import Calibration
from toolkit.records import PrunePlan, TrainingHistory
from toolkit.section import Section

KIND = "method"

Train: TypeAlias = Callable[[Model, TrainingExtension], TrainingHistory]
"""Trains a model in place with an extension: settings of `train`, source domains, and a checkpoint for each call."""


def no_training(model: Model, extension: TrainingExtension) -> TrainingHistory:
    """`Job.train` of a job without training images; raises DataError."""
    raise DataError("this pruning method trains the model, but there are no training images")


@dataclass(frozen=True)
class Job:
    """Arguments of a method besides the model."""

    settings: recipe.Prune
    calibration: Calibration
    seed: int
    train: Train = no_training
    progress: Progress = silent

    @property
    def budget(self) -> Budget:
        """The requested budget."""
        return budget_of(self.settings)


@dataclass(frozen=True)
class Outcome:
    """A plan and the model that its indices refer to."""

    plan: PrunePlan
    model: Model
    """The method's argument itself, or a trained copy of it."""


class Method(Protocol):
    trains: ClassVar[bool] = False
    """Whether it calls `Job.train`; the result then depends on the settings of `train`."""

    def check(self, settings: recipe.Prune) -> None:
        """Raise BadInput for settings of `prune` that the method does not support; called before training."""
        return

    def prune(self, model: Model, job: Job) -> Outcome:
        """A plan for `model` or for a trained copy of it; `model` is not changed.

        A killed run calls it again with the same arguments. Each `job.train` then resumes from its checkpoint, so a
        method that is otherwise deterministic ends with the same numbers.
        """
        ...


def method(name: str, own: Section | None = None) -> Method:
    """The method of this name with its own settings (None: its defaults). Raises UnknownName with the closest names."""
    return cast(Method, plugins.load(__name__, name, own))
