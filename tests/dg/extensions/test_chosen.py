from __future__ import annotations

import torch
from torch import nn

from toolkit import recipe
from toolkit.dg.extensions.averaging import WeightAveraging
from toolkit.dg.extensions.chosen import extensions
from toolkit.dg.extensions.distillation import Distillation


def test_settings_choose_extensions() -> None:
    student, teacher = nn.Linear(2, 2), nn.Linear(2, 2)
    plain, averaged = recipe.Finetune(average=False), recipe.Finetune(average=True, average_from=0.25)
    assert extensions(plain, student, None, 8) == ()
    (distillation,) = extensions(plain, student, teacher, 8)
    assert isinstance(distillation, Distillation)
    assert (distillation.weight, distillation.temperature) == (0.5, 2.0)
    _, averaging = extensions(averaged, student, teacher, 8)
    assert isinstance(averaging, WeightAveraging)
    for step in range(8):
        with torch.no_grad():
            student.weight.fill_(step)
        averaging.after_step(step)
    assert averaging.evaluated({})["weight"].tolist() == [[4.5, 4.5], [4.5, 4.5]]  # the mean of the steps 2 to 7


def test_averaging_covers_at_least_the_last_step() -> None:
    student = nn.Linear(2, 2)
    (averaging,) = extensions(recipe.Finetune(average=True, average_from=0.99), student, None, 8)
    for step in range(8):
        with torch.no_grad():
            student.weight.fill_(step)
        averaging.after_step(step)
    assert averaging.evaluated({})["weight"].tolist() == [[7.0, 7.0], [7.0, 7.0]]
