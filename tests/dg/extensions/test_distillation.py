from __future__ import annotations

import pytest
import torch
from torch import nn

from toolkit import recipe
from toolkit.dg import objectives
from toolkit.dg.batches import Batch
from toolkit.dg.extensions.distillation import Distillation, softened_divergence

BATCHES = tuple(
    Batch(torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)), torch.tensor([0, 1, 2, 0]))
    for seed in (1, 2)
)


def linear(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(6, 3)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_divergence_equals_hinton_s_formula(temperature: float) -> None:
    teacher, student = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    p, q = (logits.div(temperature).exp() for logits in (teacher, student))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    by_hand = temperature**2 * (p * (p / q).log()).sum() / 4
    torch.testing.assert_close(softened_divergence(teacher, student, temperature), by_hand)


def test_the_weight_mixes_objective_and_divergence() -> None:
    erm, student, teacher = objectives.build(recipe.Train()), linear(0), linear(1)
    plain, logits = erm(student, BATCHES)
    distillation = Distillation(teacher, weight=0.3, temperature=2.0)
    teacher_logits = teacher(torch.cat([batch.images for batch in BATCHES]))
    loss = distillation.loss(0, student, BATCHES, plain, logits)
    torch.testing.assert_close(loss, 0.7 * plain + 0.3 * softened_divergence(teacher_logits, logits, 2.0))


def test_only_the_student_gets_gradients() -> None:
    student, teacher = linear(0), linear(1)
    plain, logits = objectives.build(recipe.Train())(student, BATCHES)
    Distillation(teacher, 1.0, 2.0).loss(0, student, BATCHES, plain, logits).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in student.parameters())


def test_the_divergence_of_a_student_equal_to_its_teacher_is_zero() -> None:
    teacher = nn.Sequential(nn.Dropout(0.5), linear(0)).train()
    plain, logits = objectives.build(recipe.Train())(teacher[1], BATCHES)
    loss = Distillation(teacher, 1.0, 2.0).loss(0, teacher[1], BATCHES, plain, logits)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
