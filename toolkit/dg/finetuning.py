"""Fine-tuning of a slim model, by default with distillation from the dense model."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from toolkit import hashing
from toolkit.dg import objectives
from toolkit.dg.domains import Domains
from toolkit.dg.extensions import TrainingExtension
from toolkit.dg.extensions.chosen import extensions
from toolkit.dg.extensions.distillation import Resampled
from toolkit.dg.extensions.teaching import TeacherPlugin, TeacherRun, teacher_plugin
from toolkit.dg.fit import fit, total_steps, training_batches
from toolkit.dg.image import Dataset
from toolkit.dg.pictures import Pictures, check_apart
from toolkit.dg.plan import TrainingPlan
from toolkit.errors import BadInput, DataError
from toolkit.models.model import Model
from toolkit.progress import Progress, silent
from toolkit.recipe import Finetune, Recipe
from toolkit.records import TrainingHistory


class TrainingData(NamedTuple):
    """Images to train on; one of the two may be missing."""

    domains: Domains | None
    pictures: Pictures | None = None
    """Pictures without labels, which only an objective with a teacher takes."""


def finetune(
    slim: Model,
    data: TrainingData,
    recipe: Recipe,
    teacher: Model | None,
    checkpoint: Path,
    progress: Progress = silent,
) -> tuple[Model, TrainingHistory]:
    """`slim` trained with the settings of `finetune`, in place, and its history; the model's record names its origin.

    Raises DataError for images of other classes, BadInput for an objective that lacks its teacher or labels, and what
    `fit` raises.
    """
    domains, pictures = data
    if domains is not None and domains.classes != slim.info.classes:
        raise DataError(f"the images have the classes {domains.classes}, the model has {slim.info.classes}")
    if domains is not None and pictures is not None:
        check_apart(pictures, domains)
    settings, images = recipe.finetune, domains or pictures
    plugin = teacher_plugin(settings)
    if images is None or (domains is None and plugin is None):
        raise BadInput(f"the objective {settings.objective} needs labelled images", "or use the objective matching")
    plan = TrainingPlan(settings, objectives.build(settings), recipe.seed, checkpoint, recipe.data.workers)
    if plugin is not None:
        mixed_in = pictures if domains is not None else None
        plan = replace(plan, pictures=mixed_in, share=plugin.share, views=plugin.views)
    matching = _matching(plugin, slim, teacher, images, plan) if plugin else None
    module, teaching = slim.module, Resampled(teacher) if teacher else None
    chosen = extensions(settings, module, teaching, total_steps(images, settings), matching)
    history = fit(slim, images, replace(plan, extensions=chosen), progress)
    return slim.with_info(replace(slim.info, made_from=slim.info.weights_sha256)), history


def check_objective(settings: Finetune) -> None:
    """Raise BadInput for an objective that learns from a teacher where there is none."""
    if teacher_plugin(settings) and not settings.distill:
        raise BadInput(
            f"the objective {settings.objective} learns from the dense model, but finetune.distill is false",
            "leave out --no-distill, or use another objective",
        )


def _matching(
    plugin: TeacherPlugin, slim: Model, teacher: Model | None, images: Dataset, plan: TrainingPlan
) -> TrainingExtension:
    """The extension with the loss of an objective that learns from a teacher."""
    name = plan.settings.objective
    if teacher is None:
        raise BadInput(f"the objective {name} learns from a teacher, and there is none", "give the argument `teacher`")
    if teacher.info.classes != slim.info.classes:
        raise BadInput(f"the teacher has the classes {teacher.info.classes}, the model has {slim.info.classes}")
    content = [
        images.fingerprint(),
        plan.pictures.fingerprint() if plan.pictures else "",
        plan.settings.model_dump_json(),
        str(plan.seed),
        asdict(slim.info.preprocessing),
    ]
    return plugin.extension(
        TeacherRun(
            student=slim,
            teacher=teacher,
            draws=training_batches(slim, images, plan).draws,
            images=hashing.digest(content),
            steps=total_steps(images, plan.settings),
            scratch=plan.checkpoint.parent,
        )
    )
