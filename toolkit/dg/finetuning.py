"""Fine-tuning of a slim model, by default with distillation from the dense model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from toolkit.dg import objectives
from toolkit.dg.domains import Domains
from toolkit.dg.extensions.chosen import extensions
from toolkit.dg.fit import fit, total_steps
from toolkit.dg.plan import TrainingPlan
from toolkit.errors import DataError
from toolkit.models.model import Model
from toolkit.progress import Progress, silent
from toolkit.recipe import Recipe
from toolkit.records import TrainingHistory


def finetune(
    slim: Model,
    domains: Domains,
    recipe: Recipe,
    teacher: nn.Module | None,
    checkpoint: Path,
    progress: Progress = silent,
) -> tuple[Model, TrainingHistory]:
    """`slim` trained with the settings of `finetune`, in place, and its history; the model's record names its origin.

    Raises DataError for images of other classes, and what `fit` raises.
    """
    if domains.classes != slim.info.classes:
        raise DataError(f"the images have the classes {domains.classes}, the model has {slim.info.classes}")
    settings = recipe.finetune
    chosen = extensions(settings, slim.module, teacher, total_steps(domains, settings))
    objective, workers = objectives.build(settings), recipe.data.workers
    history = fit(slim, domains, TrainingPlan(settings, objective, recipe.seed, checkpoint, workers, chosen), progress)
    return slim.with_info(replace(slim.info, made_from=slim.info.weights_sha256)), history
