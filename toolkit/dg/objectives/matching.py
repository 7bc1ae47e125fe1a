"""Agreement with a teacher, the dense model, instead of labels: see `toolkit/dg/extensions/matching.py`.

`finetune` only. Images need no labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from toolkit import hashing
from toolkit.dg.batches import Batch
from toolkit.dg.extensions import TrainingExtension
from toolkit.dg.extensions.matched_blocks import Choice, matched_blocks
from toolkit.dg.extensions.matching import Goal, Matching, Terms, Variation, take_over
from toolkit.dg.extensions.teacher_outputs import LiveTeacher, StoredTeacher, Teacher
from toolkit.dg.extensions.teaching import TeacherPlugin, TeacherRun
from toolkit.dg.objectives import Classifier, LabelLoss, Objective
from toolkit.section import Section
from toolkit.setting_types import Conflict, Fraction, Listed

MIXUP = 0.8
DEFAULTS: Mapping[str, object] = {
    "learning_rate": 5e-5,
    "schedule": "poly",
    "final_rate": 0.1,
    "average_from": 0.25,
    "crop_scale": 0.2,
    "grayscale": 0.2,
}
"""Defaults of `finetune` with this objective."""


class Settings(Section):
    temperature: Annotated[float, Field(gt=0)] = 5.0
    """Temperature T of the logits."""
    class_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the tokens that the classifier reads."""
    patch_weight: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the patch tokens; 0 with stored views."""
    class_blocks: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Listed] = ()
    """Blocks whose class tokens are compared, by their index in the dense model; default: at 1/2, 3/4 and the end."""
    patch_blocks: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Listed] = ()
    """Blocks whose patch tokens are compared; default: at 1/2 and 3/4."""
    keep_classifier: bool = True
    """Take over the dense model's classifier and last norm, and do not train them."""
    random_convolution: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability that an image is mixed with a random convolution of itself."""
    mixup: Annotated[float, Field(ge=0)] | None = None
    """Images are mixed in pairs by shares from Beta(mixup, mixup); 0: none. Default: 0.8, and 0 with stored views."""
    images: str | None = None
    """Folder with unlabelled pictures, at any depth, to train on as well."""
    images_share: Fraction = 0.125
    """Fraction of each batch that is taken from `images`."""
    stored_views: Annotated[int, Field(ge=0)] = 0
    """Number of augmented views of each image for which the dense model's outputs are stored; 0: it sees every image
    of every step."""

    @model_validator(mode="after")
    def _views_are_not_mixed(self) -> Settings:
        if self.stored_views and self.mixup:
            both = {"stored_views": self.stored_views, "mixup": self.mixup}
            raise Conflict(both, "are mutually exclusive: outputs are stored for single images", "leave mixup out")
        return self


@dataclass(frozen=True)
class Unlabelled:
    """Logits without a loss; the extension adds it."""

    def __call__(self, model: Classifier, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        logits = model(torch.cat([batch.images for batch in batches]))
        return 0.0 * logits.sum(), logits


@dataclass(frozen=True)
class MatchingObjective:
    """Builds the objective and its extension."""

    settings: Settings = Settings()
    defaults: Mapping[str, object] = field(default_factory=lambda: DEFAULTS)

    def __call__(self, label_loss: LabelLoss) -> Objective:
        return Unlabelled()

    @property
    def pictures(self) -> str | None:
        return self.settings.images

    @property
    def share(self) -> float:
        return self.settings.images_share

    @property
    def views(self) -> int:
        return self.settings.stored_views

    def extension(self, run: TeacherRun) -> TrainingExtension:
        settings = self.settings
        choice = Choice(
            settings.class_blocks,
            settings.patch_blocks,
            with_classes=settings.class_weight > 0,
            with_patches=settings.patch_weight > 0 and not settings.stored_views,
        )
        blocks = matched_blocks(run.student, run.teacher, choice)
        frozen = take_over(run.student, run.teacher) if settings.keep_classifier else ()
        live = LiveTeacher(run.teacher, blocks.of_classes, blocks.class_tokens, blocks.of_patches)
        teacher: Teacher = self._stored(live, run, blocks.width) if settings.stored_views else live
        default = 0.0 if settings.stored_views else MIXUP
        mixup = default if settings.mixup is None else settings.mixup
        terms = Terms(settings.temperature, settings.class_weight, settings.patch_weight)
        variation = Variation(run.draws, settings.random_convolution, mixup)
        return Matching(run, teacher, blocks, frozen, Goal(terms, variation))

    def _stored(self, live: LiveTeacher, run: TeacherRun, width: int) -> StoredTeacher:
        """The outputs in a file named after all that determines them."""
        key = {
            "teacher": run.teacher.identified().info.weights_sha256,
            "images": run.images,
            "size": run.student.info.image_size,
            "blocks": live.class_blocks,
            "random_convolution": self.settings.random_convolution,
        }
        return StoredTeacher(live, run.draws, width, run.scratch / f"outputs-{hashing.digest(key)[:16]}")


PLUGIN: TeacherPlugin = MatchingObjective()
