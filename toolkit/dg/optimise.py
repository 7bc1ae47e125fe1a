"""timm's optimisers and learning-rate schedules, by the names and numbers of a recipe."""

from __future__ import annotations

from timm.optim._optim_factory import create_optimizer_v2, list_optimizers
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import nn
from torch.optim import Optimizer

from toolkit.errors import UnknownName
from toolkit.recipe import Training

SCHEDULES = ("constant", "cosine", "poly", "tanh")
"""Those of timm's schedules that need no settings but the length of training; poly falls in a straight line."""

WARMUP_START = 0.01
"""Learning rate of the first step, as a share of the largest."""


def build_optimizer(module: nn.Module, settings: Training) -> Optimizer:
    """Weight decay acts on matrices only, not on biases, gains and embeddings (timm's rule)."""
    known = list_optimizers()
    if settings.optimizer.lower() not in known:
        raise UnknownName("optimizer", settings.optimizer, [str(name) for name in known])
    return create_optimizer_v2(
        module, opt=settings.optimizer, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def build_schedule(optimizer: Optimizer, settings: Training, steps: int) -> Scheduler:
    """A schedule whose learning rate is a function of the step alone: `step_update(step)` sets it."""
    if settings.schedule not in SCHEDULES:
        raise UnknownName("schedule", settings.schedule, SCHEDULES)
    schedule: Scheduler | None
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=settings.schedule,
        num_epochs=steps,
        warmup_epochs=round(settings.warmup_epochs * steps / settings.epochs),
        decay_rate=1.0,  # the power of poly
        warmup_lr=settings.learning_rate * WARMUP_START,
        step_on_epochs=False,
        updates_per_epoch=1,  # an "epoch" of this schedule is one step
    )
    assert schedule is not None, "timm knows every schedule in SCHEDULES"
    return schedule
