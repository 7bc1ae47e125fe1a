"""The extensions that the settings of `finetune` select."""

from __future__ import annotations

from torch import nn

from toolkit.dg.extensions import TrainingExtension
from toolkit.dg.extensions.averaging import WeightAveraging
from toolkit.dg.extensions.distillation import Distillation
from toolkit.recipe import Finetune


def extensions(
    settings: Finetune,
    module: nn.Module,
    teacher: nn.Module | None,
    steps: int,
    matching: TrainingExtension | None = None,
) -> tuple[TrainingExtension, ...]:
    """`matching`, the extension of an objective that learns from a teacher, or distillation from `teacher` if there is
    one; if set, averaging of `module` from a fraction of all `steps` on."""
    chosen: list[TrainingExtension] = []
    if matching is not None:
        chosen.append(matching)
    elif teacher is not None:
        chosen.append(Distillation(teacher, settings.distill_weight, settings.distill_temperature))
    if settings.average:
        chosen.append(WeightAveraging(module, min(round(settings.average_from * steps), max(steps - 1, 0))))
    return tuple(chosen)
