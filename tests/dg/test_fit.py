from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toolkit import recipe
from toolkit.dg import objectives
from toolkit.dg.batches import Batch
from toolkit.dg.domains import Domains
from toolkit.dg.evaluate import accuracy
from toolkit.dg.extensions.distillation import Distillation
from toolkit.dg.fit import evaluation_steps, fit, total_steps
from toolkit.dg.objectives import Classifier, Objective
from toolkit.dg.plan import TrainingPlan
from toolkit.errors import CheckFailed, UnknownName
from toolkit.models import native
from toolkit.models.model import Model
from toolkit.records import TrainingHistory

MakeModel = Callable[[], Model]
SETTINGS = recipe.Train(epochs=6, batch_size=8, learning_rate=3e-3, evaluations=4, flip=0.5, crop_scale=0.9)


class Killed(Exception):
    pass


def plan(folder: Path, settings: recipe.Training = SETTINGS, objective: Objective | None = None) -> TrainingPlan:
    return TrainingPlan(settings, objective or objectives.build(settings), 0, folder / "checkpoint.pt", workers=0)


def killed_at(step: int) -> Callable[..., None]:
    def progress(done: int, total: int, message: str = "") -> None:
        if done == step:
            raise Killed

    return progress


def without_time(history: TrainingHistory) -> TrainingHistory:
    return replace(history, seconds=0.0)


def same_weights(one: Model, other: Model) -> bool:
    pairs = zip(one.module.state_dict().values(), other.module.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_training_learns_and_keeps_the_selected_state(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    model = make_model()
    history = fit(model, three_domains, plan(tmp_path))
    assert history.steps == total_steps(three_domains, SETTINGS) == 24
    assert [evaluation.step for evaluation in history.evaluations] == [6, 12, 18, 24]
    assert history.evaluations[-1].train_loss < 0.7 * history.evaluations[0].train_loss
    assert not model.module.training
    selected = next(item for item in history.evaluations if item.step == history.selected_step)
    assert set(selected.accuracy) == {"art", "photo"}
    for domain, images in three_domains.selection_images().items():
        assert accuracy(model.module, images, model.info, 8) == selected.accuracy[domain]


@pytest.mark.parametrize("step", [4, 12, 17])
def test_resuming_a_killed_run_gives_identical_results(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path, step: int
) -> None:
    uninterrupted, resumed = make_model(), make_model()
    expected = fit(uninterrupted, three_domains, plan(tmp_path))
    (tmp_path / "checkpoint.pt").unlink()

    with pytest.raises(Killed):
        fit(make_model(), three_domains, plan(tmp_path), killed_at(step))
    steps: list[int] = []
    history = fit(resumed, three_domains, plan(tmp_path), lambda done, total, message="": steps.append(done))

    assert steps[0] == (0 if step < 6 else 12 if step > 12 else 6) + 1
    assert without_time(history) == without_time(expected)
    assert same_weights(uninterrupted, resumed)


def test_a_finished_run_is_not_repeated(make_model: MakeModel, three_domains: Domains, tmp_path: Path) -> None:
    first, second = make_model(), make_model()
    expected = fit(first, three_domains, plan(tmp_path))
    assert fit(second, three_domains, plan(tmp_path), killed_at(1)) == expected
    assert same_weights(first, second)


def test_the_checkpoint_of_another_run_is_replaced(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    fit(make_model(), three_domains, plan(tmp_path))
    shorter = SETTINGS.model_copy(update={"epochs": 2, "evaluations": 1})
    assert fit(make_model(), three_domains, plan(tmp_path, shorter)).steps == 8


def test_zero_epochs_evaluate_the_unchanged_model(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    model = make_model()
    history = fit(model, three_domains, plan(tmp_path, SETTINGS.model_copy(update={"epochs": 0})))
    assert (history.steps, history.selected_step, len(history.evaluations)) == (0, 0, 1)
    assert set(history.evaluations[0].accuracy) == {"art", "photo"}
    assert history.evaluations[0].train_loss > 0
    assert same_weights(model, make_model())
    assert not model.module.training


def test_a_non_finite_loss_is_an_error_with_a_hint(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    def diverging(model: Classifier, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        logits = model(torch.cat([batch.images for batch in batches]))
        return logits.sum() * float("nan"), logits

    with pytest.raises(CheckFailed, match=r"the loss is nan at step 1 of 24") as raised:
        fit(make_model(), three_domains, plan(tmp_path, objective=diverging))
    assert "--learning-rate" in raised.value.hint


def test_a_student_learns_from_its_teacher(make_model: MakeModel, three_domains: Domains, tmp_path: Path) -> None:
    teacher, student = make_model(), make_model()
    fit(teacher, three_domains, plan(tmp_path))
    before = {name: tensor.clone() for name, tensor in teacher.module.state_dict().items()}
    distillation = Distillation(teacher.module, 0.5, 2.0)
    settings = recipe.Finetune(**SETTINGS.model_dump())
    history = fit(student, three_domains, replace(plan(tmp_path, settings), extensions=(distillation,)))
    assert history.objective == "erm and distillation"
    assert history.evaluations[-1].train_loss < history.evaluations[0].train_loss
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.module.state_dict().items())


def test_training_in_bf16(make_model: MakeModel, three_domains: Domains, tmp_path: Path) -> None:
    model = make_model()
    settings = SETTINGS.model_copy(update={"precision": "bf16", "epochs": 1, "evaluations": 1})
    history = fit(model, three_domains, plan(tmp_path, settings))
    assert 0 < history.evaluations[0].train_loss < 2
    assert {tensor.dtype for tensor in model.module.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("emulated", [True, False])
def test_emulated_bfloat16_is_reported_and_avoided(
    make_model: MakeModel,
    three_domains: Domains,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    emulated: bool,
) -> None:
    monkeypatch.setattr(native, "emulated", lambda precision: emulated and precision == "bf16")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    changes = {"optimizer": "muon", "precision": "bf16", "epochs": 1, "evaluations": 1}
    with caplog.at_level(logging.INFO, "toolkit"):
        fit(make_model(), three_domains, plan(tmp_path, SETTINGS.model_copy(update=changes)))
    logged = [(item.levelname, item.getMessage()) for item in caplog.records if item.name.startswith("toolkit")]
    expected = [
        ("WARNING", "this CPU emulates bfloat16: training in bf16 is slower than in fp32 (--precision fp32)"),
        ("INFO", "muon computes in float32: this CPU emulates bfloat16"),
    ]
    assert logged == (expected if emulated else [])


def test_an_unknown_optimiser_is_an_error_before_anything_is_written(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    with pytest.raises(UnknownName, match="unknown optimizer"):
        fit(make_model(), three_domains, plan(tmp_path, SETTINGS.model_copy(update={"optimizer": "adamv"})))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_caller_s_random_state_is_not_changed(
    make_model: MakeModel, three_domains: Domains, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    fit(make_model(), three_domains, plan(tmp_path, SETTINGS.model_copy(update={"epochs": 1})))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("total", "evaluations", "steps"), [(10, 5, (2, 4, 6, 8, 10)), (10, 3, (3, 6, 10)), (2, 5, (1, 2)), (7, 1, (7,))]
)
def test_evaluations_are_evenly_spaced(total: int, evaluations: int, steps: tuple[int, ...]) -> None:
    assert evaluation_steps(total, evaluations) == steps
