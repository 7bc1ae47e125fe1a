from __future__ import annotations

import pytest
from torch import nn

from toolkit import recipe
from toolkit.dg.optimise import SCHEDULES, add_group, build_optimizer, build_schedule
from toolkit.errors import UnknownName


def rates(schedule: str, steps: int = 100) -> list[float]:
    settings = recipe.Train(schedule=schedule, epochs=4, warmup_epochs=0.4, learning_rate=0.1)
    optimizer = build_optimizer(nn.Linear(2, 2), settings)
    instance = build_schedule(optimizer, settings, steps)
    learning_rates = []
    for step in range(steps):
        instance.step_update(step)
        learning_rates.append(optimizer.param_groups[0]["lr"])
    return learning_rates


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_learning_rate_warms_up_to_its_peak(schedule: str) -> None:
    learning_rates = rates(schedule)
    assert learning_rates[0] == pytest.approx(0.001)
    assert learning_rates[:10] == sorted(learning_rates[:10])
    assert max(learning_rates) == pytest.approx(0.1, rel=0.1)


def test_cosine_ends_near_zero_and_constant_does_not_decay() -> None:
    assert rates("cosine")[-1] < 1e-4
    assert rates("constant")[-1] == 0.1


def test_poly_is_linear() -> None:
    assert rates("poly")[10:] == pytest.approx([0.1 * (1 - step / 100) for step in range(10, 100)])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_single_step_has_a_schedule(schedule: str) -> None:
    assert rates(schedule, steps=1) == pytest.approx([0.1], rel=1e-5)


def test_a_schedule_can_start_at_any_step() -> None:
    settings = recipe.Train(epochs=4, learning_rate=0.1)
    optimizer = build_optimizer(nn.Linear(2, 2), settings)
    schedule = build_schedule(optimizer, settings, 100)
    schedule.step_update(60)
    resumed = optimizer.param_groups[0]["lr"]
    for step in range(61):
        schedule.step_update(step)
    assert optimizer.param_groups[0]["lr"] == resumed


def test_biases_have_no_weight_decay() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), recipe.Train(weight_decay=0.3))
    decay = {
        parameter.dim(): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert decay == {2: 0.3, 1: 0.0}


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="unknown optimizer 'adamv'") as raised:
        build_optimizer(nn.Linear(2, 2), recipe.Train(optimizer="adamv"))
    assert "did you mean adam" in raised.value.hint
    optimizer = build_optimizer(nn.Linear(2, 2), recipe.Train())
    with pytest.raises(UnknownName, match="unknown schedule 'cosin'"):
        build_schedule(optimizer, recipe.Train(schedule="cosin"), 10)


def test_parameters_of_their_own_group_have_their_own_rate_and_no_decay() -> None:
    settings = recipe.Train(schedule="cosine", epochs=4, warmup_epochs=0.4, learning_rate=0.1, weight_decay=0.05)
    model, probe = nn.Linear(2, 2), nn.Linear(2, 1)
    optimizer = build_optimizer(model, settings)
    add_group(optimizer, [model.weight, *probe.parameters()], 0.5)
    schedule = build_schedule(optimizer, settings, 100)
    schedule.step_update(10)  # the peak
    *model_groups, own = optimizer.param_groups
    assert [parameter.shape for group in model_groups for parameter in group["params"]] == [(2,)]
    assert [parameter.shape for parameter in own["params"]] == [(2, 2), (1, 2), (1,)]
    assert own["weight_decay"] == 0.0
    assert own["lr"] / model_groups[0]["lr"] == pytest.approx(5.0)


@pytest.mark.parametrize(("schedule", "end"), [("poly", 0.02), ("cosine", 0.02), ("constant", 0.2)])
def test_a_decaying_rate_of_finetune_ends_at_a_fraction_of_the_peak(schedule: str, end: float) -> None:
    settings = recipe.Finetune(schedule=schedule, epochs=4, warmup_epochs=0, learning_rate=0.2, final_rate=0.1)
    optimizer = build_optimizer(nn.Linear(2, 2), settings)
    scheduler = build_schedule(optimizer, settings, 100)
    scheduler.step_update(0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    scheduler.step_update(100)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(end)
