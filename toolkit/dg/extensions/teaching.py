"""Objectives that learn from a teacher instead of labels, for `finetune` only.

The objective itself has no loss: the plug-in brings a training extension that adds one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from toolkit.dg import objectives
from toolkit.dg.draws import Draws
from toolkit.dg.extensions import TrainingExtension
from toolkit.dg.objectives import ObjectivePlugin
from toolkit.models.model import Model
from toolkit.recipe import Training


@dataclass(frozen=True)
class TeacherRun:
    """A training run with a teacher."""

    student: Model
    teacher: Model
    draws: Draws
    """Images of each step."""
    images: str
    """Hash of everything that determines these images as they are drawn and augmented."""
    steps: int
    scratch: Path
    """Folder for what a resumed run reads."""


@runtime_checkable
class TeacherPlugin(ObjectivePlugin, Protocol):
    """A plug-in that learns from a teacher."""

    @property
    def pictures(self) -> str | None:
        """Folder with unlabelled pictures to train on besides the images of the domains."""
        ...

    @property
    def share(self) -> float:
        """Fraction of each step's images that are pictures."""
        ...

    @property
    def views(self) -> int:
        """Number of augmented views of each image; 0: a new one in each draw."""
        ...

    def extension(self, run: TeacherRun) -> TrainingExtension:
        """The training extension with the loss. It may change weights of the student; BadInput for a student that
        cannot be trained as the settings say."""
        ...


def teacher_plugin(settings: Training) -> TeacherPlugin | None:
    """The objective's plug-in if it learns from a teacher. Raises UnknownName with the closest names."""
    plugin = objectives.plugin_of(settings)
    return plugin if isinstance(plugin, TeacherPlugin) else None
