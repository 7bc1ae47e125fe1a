"""timm's optimisers and learning-rate schedules, from the settings of a recipe."""

from __future__ import annotations

from collections.abc import Iterable

from timm.optim._optim_factory import create_optimizer_v2, list_optimizers
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import nn
from torch.optim import Optimizer

from toolkit.errors import UnknownName
from toolkit.recipe import Finetune, Training

SCHEDULES = ("constant", "cosine", "poly", "tanh")
"""timm's schedules that need no settings except the number of steps; poly is linear here."""

WARMUP_START = 0.01
"""Learning rate of the first step, as a fraction of the peak."""


def build_optimizer(module: nn.Module, settings: Training) -> Optimizer:
    """The optimiser; weight decay does not apply to biases, norms and embeddings (timm's rule).

    Raises UnknownName with the closest names.
    """
    known = list_optimizers()
    if settings.optimizer.lower() not in known:
        raise UnknownName("optimizer", settings.optimizer, [str(name) for name in known])
    return create_optimizer_v2(
        module, opt=settings.optimizer, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def add_group(optimizer: Optimizer, parameters: Iterable[nn.Parameter], learning_rate: float | None) -> None:
    """Move parameters to a group of their own without weight decay; default: the optimiser's learning rate.

    To be called before `build_schedule`, which scales the learning rate of each group.
    """
    own = list(parameters)
    moved = {id(parameter) for parameter in own}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in moved]
    rate = optimizer.defaults["lr"] if learning_rate is None else learning_rate
    optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0})


def build_schedule(optimizer: Optimizer, settings: Training, steps: int) -> Scheduler:
    """The schedule; `step_update(step)` sets the learning rate, which depends on the step only.

    Raises UnknownName with the closest names.
    """
    if settings.schedule not in SCHEDULES:
        raise UnknownName("schedule", settings.schedule, SCHEDULES)
    schedule: Scheduler | None
    schedule, _ = create_scheduler_v2(
        optimizer,
        # timm before 1.0.30 has no constant schedule; a step schedule that multiplies by 1 is the same.
        sched="step" if settings.schedule == "constant" else settings.schedule,
        num_epochs=steps,
        decay_epochs=steps,
        warmup_epochs=round(settings.warmup_epochs * steps / settings.epochs),
        decay_rate=1.0,  # the factor of step, the power of poly
        min_lr=settings.learning_rate * (settings.final_rate if isinstance(settings, Finetune) else 0.0),
        warmup_lr=settings.learning_rate * WARMUP_START,
        step_on_epochs=False,
        updates_per_epoch=1,  # an "epoch" of this schedule is one step
    )
    assert schedule is not None, "timm has every schedule in SCHEDULES"
    return schedule
