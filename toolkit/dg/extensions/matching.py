"""Matching: a student learns to agree with its teacher, without labels.

    T^2 KL(teacher || student)                             of the softened logits
    + a * mean over blocks of MSE(LN(student), LN(teacher))  of the tokens that the classifier reads
    + b * mean over blocks of MSE(LN(student), LN(teacher))  of the patch tokens

LN is a layer norm without gain and bias. Distillation without labels is function matching (Beyer et al., 2022); WAKD
(2023) and GKD (2026) report it for unseen domains, GKD with features. A student
that merges tokens is compared with the teacher's tokens merged by the same matrices. Where the student keeps the
residual width, it also takes over the teacher's classifier and last norm, which are not trained (as in SimKD, 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.dg.batches import Batch
from toolkit.dg.draws import Draws, rng
from toolkit.dg.extensions import TrainingExtension
from toolkit.dg.extensions.block_tokens import difference, normalised
from toolkit.dg.extensions.distillation import softened_divergence
from toolkit.dg.extensions.matched_blocks import MatchedBlocks
from toolkit.dg.extensions.teacher_outputs import Teacher
from toolkit.dg.extensions.teaching import TeacherRun
from toolkit.dg.objectives import Classifier
from toolkit.dg.random_images import mixup, random_convolutions
from toolkit.models.model import Model
from toolkit.models.recording import Recorded, recording

CONVOLUTION, MIXUP = 1, 2
"""What a random stream is for."""


@dataclass(frozen=True)
class Terms:
    """Weights of the loss's terms."""

    temperature: float
    class_weight: float
    patch_weight: float


@dataclass(frozen=True)
class Variation:
    """Random changes of a batch, besides the augmentation of each image."""

    draws: Draws
    random_convolution: float
    """Probability, for each image."""
    mixup: float
    """Parameter of the distribution; 0: none."""

    def of(self, images: Tensor, step: int) -> Tensor:
        """The images [batch, 3, S, S] of a step, changed; a function of images, seed and step."""
        (draws,) = self.draws.steps(step, step + 1)
        streams = [draw.generator(self.draws.seed, CONVOLUTION) for draw in draws]
        images = random_convolutions(images, streams, self.random_convolution)
        if self.mixup:
            images = mixup(images, rng(self.draws.seed, len(self.draws.sizes), MIXUP, step), self.mixup)
        return images


class Goal(NamedTuple):
    """What is learnt, and on which images."""

    terms: Terms
    variation: Variation


class Matching(TrainingExtension):
    """The loss above instead of that of labels; the state after the last step is kept, whatever its accuracy."""

    def __init__(
        self, run: TeacherRun, teacher: Teacher, blocks: MatchedBlocks, frozen: Sequence[nn.Parameter], goal: Goal
    ) -> None:
        self.name = blocks.name
        self.reference = run.teacher
        self.frozen = frozen
        self._run, self._teacher, self._blocks = run, teacher, blocks
        self._terms, self._variation = goal
        self._recorded = Recorded()

    def batches(self, step: int, batches: Sequence[Batch]) -> Sequence[Batch]:
        images = self._variation.of(torch.cat([batch.images for batch in batches]), step)
        parts = images.split([len(batch.images) for batch in batches])
        return [batch._replace(images=part) for batch, part in zip(batches, parts, strict=True)]

    @contextmanager
    def observing(self) -> Iterator[None]:
        with recording(self._run.student, {*self._blocks.of_classes, *self._blocks.of_patches}) as self._recorded:
            yield

    def loss(self, step: int, model: Classifier, batches: Sequence[Batch], loss: Tensor, logits: Tensor) -> Tensor:
        blocks, tokens, terms = self._blocks, self._recorded.tokens, self._terms
        target = self._teacher.outputs(step, torch.cat([batch.images for batch in batches]))
        loss = loss + softened_divergence(target.logits, logits.float(), terms.temperature)
        if blocks.of_classes:
            parts = [
                difference(tokens[block][:, : blocks.class_tokens], target.classes[:, index])
                for index, block in enumerate(blocks.of_classes)
            ]
            loss = loss + terms.class_weight * torch.stack(parts).mean()
        if blocks.of_patches:
            parts = [self._patch_difference(block, target.tokens[block]) for block in blocks.of_patches]
            loss = loss + terms.patch_weight * torch.stack(parts).mean()
        return loss

    def after_step(self, step: int) -> None:
        self._recorded = Recorded()  # frees the activations

    def may_select(self, steps: int) -> bool:
        return steps == self._run.steps

    def _patch_difference(self, block: int, teacher: Tensor) -> Tensor:
        """Mean squared error of the patch tokens after a block; `teacher` [batch, tokens, width] is not merged."""
        first = self._blocks.prefix
        with torch.no_grad():
            merged = normalised(self._recorded.merge(teacher, block)[:, first:])
        return difference(self._recorded.tokens[block][:, first:], merged)


def take_over(student: Model, teacher: Model) -> tuple[nn.Parameter, ...]:
    """Copy the teacher's classifiers and their norm into the student, and return the student's parameters of these;
    nothing is copied, and the result is empty, if shapes differ."""
    parts = student.parts
    names = [name for name in (*parts.classifiers, parts.classifier_norm) if name]
    pairs = [
        (own, other)
        for name in names
        for own, other in zip(
            student.module.get_submodule(name).parameters(),
            teacher.module.get_submodule(name).parameters(),
            strict=True,
        )
    ]
    if any(own.shape != other.shape for own, other in pairs):
        return ()
    with torch.no_grad():
        for own, other in pairs:
            own.copy_(other)
    return tuple(own for own, _ in pairs)
