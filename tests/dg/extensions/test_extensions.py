"""The protocol of training extensions: parameters, losses, selection and state across a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from toolkit import recipe
from toolkit.dg import objectives
from toolkit.dg.batches import Batch
from toolkit.dg.checkpoint import copied
from toolkit.dg.domains import Domains
from toolkit.dg.extensions import TrainingExtension
from toolkit.dg.extensions.averaging import WeightAveraging
from toolkit.dg.extensions.distillation import Distillation
from toolkit.dg.fit import fit
from toolkit.dg.objectives import Classifier, Objective
from toolkit.dg.plan import TrainingPlan
from toolkit.errors import CheckFailed
from toolkit.models.model import Model
from toolkit.progress import silent

MakeModel = Callable[[], Model]
SETTINGS = recipe.Train(epochs=6, batch_size=8, learning_rate=3e-3, evaluations=4, clip_grad=0.5)


class Killed(Exception):
    pass


class Probe(TrainingExtension):
    """A linear classifier of the mean colour, trained together with the model; it counts its steps."""

    name = "probe"
    learning_rate = 0.1

    def __init__(self, first_selectable: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.modules = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.first_selectable = first_selectable
        self.count = torch.zeros((), dtype=torch.int64)

    def loss(self, step: int, model: Classifier, batches: Sequence[Batch], loss: Tensor, logits: Tensor) -> Tensor:
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return loss + cross_entropy(self.modules(images.mean(dim=(2, 3))), labels)

    def after_step(self, step: int) -> None:
        assert step == self.count
        self.count += 1

    def may_select(self, steps: int) -> bool:
        return steps >= self.first_selectable

    def state(self) -> dict[str, Tensor]:
        return {"count": self.count.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.count = state["count"].clone()


def plan_of(folder: Path, *extensions: TrainingExtension, objective: Objective | None = None) -> TrainingPlan:
    objective = objective or objectives.build(SETTINGS)
    return TrainingPlan(SETTINGS, objective, 0, folder / "checkpoint.pt", 0, extensions)


def killed_at(step: int) -> Callable[..., None]:
    def progress(done: int, total: int, message: str = "") -> None:
        if done == step:
            raise Killed

    return progress


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_a_resumed_run_ends_with_the_same_numbers(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    def run(progress: Callable[..., None] = silent) -> tuple[Model, Probe, WeightAveraging]:
        model, probe = make_model(), Probe()
        averaging = WeightAveraging(model.module, 5)
        fit(model, three_domains, plan_of(tmp_path, probe, averaging), progress)
        return model, probe, averaging

    expected = run()
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(Killed):
        run(killed_at(17))
    resumed = run()
    assert resumed[1].count == 24
    assert equal(resumed[0].module, expected[0].module)
    assert equal(resumed[1].modules, expected[1].modules)
    assert all(torch.equal(tensor, expected[2].state()[name]) for name, tensor in resumed[2].state().items())


def test_parameters_of_an_extension_are_trained_without_affecting_the_model(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    plain, probed, probe = make_model(), make_model(), Probe()
    initial = copied(probe.modules)
    # The probe's dropout draws random numbers after the model's, so that only the first step is comparable.
    settings = SETTINGS.model_copy(update={"epochs": 1, "batch_size": 40, "evaluations": 1})
    for model, extensions in ((plain, ()), (probed, (probe,))):
        plan = TrainingPlan(settings, objectives.build(settings), 0, tmp_path / "checkpoint.pt", 0, extensions)
        assert fit(model, three_domains, plan).steps == 1
    assert equal(plain.module, probed.module)
    assert not any(torch.equal(tensor, probe.modules.state_dict()[name]) for name, tensor in initial.items())


def test_only_states_that_may_be_selected_are_kept(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    history = fit(make_model(), three_domains, plan_of(tmp_path, Probe(first_selectable=20)))
    assert [evaluation.step for evaluation in history.evaluations] == [6, 12, 18, 24]
    assert history.selected_step == 24


def test_a_run_without_a_selectable_state_is_an_error(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    with pytest.raises(CheckFailed, match="erm and probe: no evaluated state may be selected"):
        fit(make_model(), three_domains, plan_of(tmp_path, Probe(first_selectable=25)))


def test_distillation_equals_training_with_its_formula_as_objective(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    teacher, student, by_hand = make_model(), make_model(), make_model()
    with torch.no_grad():
        for parameter in teacher.module.parameters():
            parameter.mul_(1.5)
    teacher.module.eval()

    def mixed(model: Classifier, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        logits, target = model(images), teacher.module(images).detach()
        softened = [log_softmax(values / 2.0, dim=-1) for values in (logits, target)]
        divergence = 4.0 * kl_div(softened[0], softened[1], reduction="batchmean", log_target=True)
        return (1 - 0.3) * cross_entropy(logits, labels) + 0.3 * divergence, logits

    expected = fit(by_hand, three_domains, plan_of(tmp_path, objective=mixed))
    (tmp_path / "checkpoint.pt").unlink()
    history = fit(student, three_domains, plan_of(tmp_path, Distillation(teacher.module, 0.3, 2.0)))
    assert [item.train_loss for item in history.evaluations] == [item.train_loss for item in expected.evaluations]
    assert equal(student.module, by_hand.module)


def test_an_extension_takes_part_in_an_evaluation_without_training(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 0})
    losses = []
    for extensions in ((), (Probe(),)):
        plan = TrainingPlan(settings, objectives.build(settings), 0, tmp_path / "checkpoint.pt", 0, extensions)
        losses.append(fit(make_model(), three_domains, plan).evaluations[0].train_loss)
    assert losses[1] > losses[0] > 0
