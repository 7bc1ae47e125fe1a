"""Pruning methods: one file per published method, found by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeAlias, cast

from toolkit import plugins, recipe
from toolkit.dg.extensions import TrainingExtension
from toolkit.errors import DataError, RecipeError
from toolkit.models.model import Model
from toolkit.progress import Progress, silent
from toolkit.prune.budget import Budget, Quantity, budget_of
from toolkit.prune.calibration import Calibration
from toolkit.prune.verified_search import LatencyMeter
from toolkit.records import PrunePlan, TrainingHistory
from toolkit.section import Section

KIND = "method"

HEADS_AND_MLPS: Mapping[str, object] = {"axes": ("head", "mlp"), "basis": "none", "compensation": "none"}
"""Defaults of `prune` with most methods."""
COUNTED: tuple[Quantity, ...] = ("macs", "params")
"""Quantities that every method can count."""

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
    latency: LatencyMeter | None = None
    """Measures latencies; there is one if the budget is a latency."""
    scratch: Callable[[], Path] | None = None
    """Makes the folder for what a method goes on from after a kill; it is for this model and these arguments only."""

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
    quantities: ClassVar[tuple[Quantity, ...]] = ("ratio", "macs", "params")
    """Quantities that its budget may be in."""
    defaults: Mapping[str, object] = HEADS_AND_MLPS
    """Values for other settings of `prune`, where the recipe has none."""

    def check(self, settings: recipe.Prune) -> None:
        """Raise BadInput for settings of `prune` that the method does not support; called before training."""
        return

    def check_budget(self, model: Model, settings: recipe.Prune) -> None:
        """Raise BudgetError, before training, if a model of this structure certainly cannot achieve the budget."""
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


def check_quantity(name: str, budget: Budget) -> None:
    """Raise RecipeError, with the methods that can, if the method `name` cannot search by the budget's quantity."""
    quantity = budget.quantity
    if quantity in method(name).quantities:
        return
    able = [other for other, plugin in plugins.importable(__name__) if quantity in plugin.quantities]
    raise RecipeError(
        f"prune.method {name!r} cannot prune to a budget of {quantity}: {budget}",
        f"--method {' or '.join(able)}" if able else f"--budget {' or '.join(f'{q}=0.5' for q in COUNTED)}",
    )
