"""Finals: the best choices of a search are trained for a few dozen steps before one of them is chosen.

What a model is worth after recovery is not what it is worth before: as in DarwinLM (2025), candidates may be compared
after some training. The trained weights are discarded; recovery itself is `finetune`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.dg.extensions.distillation import softened_divergence
from toolkit.progress import Progress, silent

BATCH_SIZE = 32
LEARNING_RATE = 5e-5
TEMPERATURE = 5.0


@dataclass(frozen=True)
class Lesson:
    """Images and the dense model's logits for them."""

    images: Tensor
    """[images, 3, S, S]"""
    logits: Tensor
    """[images, classes]"""

    def batches(self, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A random batch for each step, all images before one is drawn again."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.empty(0, dtype=torch.int64)
        size = min(BATCH_SIZE, len(self.images))
        for _ in range(steps):
            if len(order) < size:
                order = torch.cat([order, torch.randperm(len(self.images), generator=generator)])
            drawn, order = order[:size], order[size:]
            yield self.images[drawn], self.logits[drawn]


def lesson_of(dense: nn.Module, images: Sequence[Tensor], resampled: Sequence[Tensor]) -> Lesson:
    """The dense model's logits for batches of its images, with the same images at the size of the small models."""
    with torch.inference_mode():
        logits = torch.cat([dense(batch) for batch in images])
    return Lesson(torch.cat([*resampled]), logits.clone())


def train(module: nn.Module, lesson: Lesson, steps: int, seed: int, progress: Progress = silent) -> None:
    """Train a module in place to agree with the dense model, without dropout, at a learning rate that falls to zero."""
    module.eval().requires_grad_(True)
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE)
    for done, (images, logits) in enumerate(lesson.batches(steps, seed)):
        progress(done, steps, "training a finalist")
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - done / steps)
        optimizer.zero_grad()
        softened_divergence(logits, module(images), TEMPERATURE).backward()
        optimizer.step()
    module.requires_grad_(False)
