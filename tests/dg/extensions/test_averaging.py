from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from toolkit import recipe
from toolkit.dg import objectives
from toolkit.dg.checkpoint import Weights, copied
from toolkit.dg.domains import Domains
from toolkit.dg.evaluate import accuracy
from toolkit.dg.extensions import TrainingExtension
from toolkit.dg.extensions.averaging import WeightAveraging
from toolkit.dg.fit import fit
from toolkit.dg.plan import TrainingPlan
from toolkit.models.model import Model

SETTINGS = recipe.Finetune(epochs=3, batch_size=8, learning_rate=3e-3, evaluations=3)


class Recorder(TrainingExtension):
    """Records the weights after each step."""

    name = "recorder"

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.steps: list[Weights] = []

    def after_step(self, step: int) -> None:
        self.steps.append(copied(self.module))


def plan_of(folder: Path, *extensions: TrainingExtension) -> TrainingPlan:
    return TrainingPlan(SETTINGS, objectives.build(SETTINGS), 0, folder / "checkpoint.pt", 0, extensions)


@pytest.mark.parametrize("first", [0, 7])
def test_the_average_is_the_mean_over_the_steps(
    make_model: Callable[[], Model], three_domains: Domains, tmp_path: Path, first: int
) -> None:
    model = make_model()
    recorder, averaging = Recorder(model.module), WeightAveraging(model.module, first)
    history = fit(model, three_domains, plan_of(tmp_path, recorder, averaging))
    assert (history.steps, history.objective) == (12, "erm, recorder and weight averaging")
    for name, tensor in averaging.evaluated({}).items():
        by_hand = torch.stack([weights[name].double() for weights in recorder.steps[first:]]).mean(dim=0)
        torch.testing.assert_close(tensor, by_hand.float(), atol=1e-7, rtol=1e-5)


def test_averaging_does_not_change_training_and_the_average_is_kept(
    make_model: Callable[[], Model], three_domains: Domains, tmp_path: Path
) -> None:
    plain, averaged = make_model(), make_model()
    first, second = Recorder(plain.module), Recorder(averaged.module)
    without = fit(plain, three_domains, plan_of(tmp_path, first))
    averaging = WeightAveraging(averaged.module, 2)
    history = fit(averaged, three_domains, plan_of(tmp_path, second, averaging))
    losses = [[evaluation.train_loss for evaluation in item.evaluations] for item in (without, history)]
    assert losses[0] == losses[1]
    assert all(torch.equal(tensor, second.steps[-1][name]) for name, tensor in first.steps[-1].items())
    steps = range(2, history.selected_step)
    for name, tensor in averaged.module.state_dict().items():
        mean: Tensor = sum((second.steps[step][name] for step in steps), torch.zeros(())) / len(steps)
        torch.testing.assert_close(tensor, mean, atol=1e-6, rtol=1e-5)
    selected = next(item for item in history.evaluations if item.step == history.selected_step)
    for domain, images in three_domains.selection_images().items():
        assert accuracy(averaged.module, images, averaged.info, 8) == selected.accuracy[domain]


def test_before_its_first_step_the_current_weights_are_evaluated(make_model: Callable[[], Model]) -> None:
    module = make_model().module
    averaging, weights = WeightAveraging(module, 3), copied(module)
    averaging.after_step(2)
    assert averaging.evaluated(weights) is weights
    averaging.after_step(3)
    assert averaging.evaluated({}).keys() == weights.keys()


def test_a_checkpoint_without_averaging_is_not_used(
    make_model: Callable[[], Model], three_domains: Domains, tmp_path: Path
) -> None:
    fit(make_model(), three_domains, plan_of(tmp_path))
    model = make_model()
    steps: list[int] = []
    plan = replace(plan_of(tmp_path), extensions=(WeightAveraging(model.module, 0),))
    fit(model, three_domains, plan, lambda done, total, message="": steps.append(done))
    assert steps[0] == 1
