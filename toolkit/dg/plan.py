"""Training plans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolkit.dg.extensions import TrainingExtension
from toolkit.dg.objectives import Objective
from toolkit.dg.pictures import Pictures
from toolkit.recipe import Training


@dataclass(frozen=True)
class TrainingPlan:
    """Arguments of a training run besides the model and the data."""

    settings: Training
    objective: Objective
    seed: int
    checkpoint: Path
    """File that is written after each evaluation and read by a later call. The caller deletes it."""
    workers: int | None = None
    """Worker processes that load images (recipe.Data.workers)."""
    extensions: tuple[TrainingExtension, ...] = ()
    """Extensions of the training loop, applied in this order."""

    pictures: Pictures | None = None
    """Images without labels to train on besides those of the domains."""
    share: float = 0.0
    """Fraction of each step's images that are pictures."""
    views: int = 0
    """Number of augmented views of each image; 0: a new one in each draw."""

    @property
    def name(self) -> str:
        """Name of the objective and the extensions, for users: "erm, distillation and weight averaging"."""
        names = [self.settings.objective, *(extension.name for extension in self.extensions)]
        return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
