"""The stage `prune`: methods that train, changes of basis, and the model that a plan refers to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit import records
from toolkit.dg.extensions import TrainingExtension
from toolkit.models import store, surgery
from toolkit.recipe import Recipe
from toolkit.records import LatencyTable, ModelInfo, PrunePlan, TrainingHistory
from toolkit.runfolder import RunFolder
from toolkit.stages import Run
from toolkit.stages.prune import calibration_of

Command = Callable[..., Any]
PRUNED = Path("runs/default/pruned")
METHODS = Path(__file__).parents[1] / "prune" / "methods"
"""Folder of the plug-in `soft-gates`."""


@pytest.fixture
def soft_gates(here: Path, install: Callable[..., Path]) -> None:
    """Installs the method `soft-gates` of the tests."""
    install({"soft_gates": (METHODS / "soft_gates.py").read_text()}, [("method", "soft-gates", "soft_gates")])


def weights(folder: Path) -> str:
    return records.load(ModelInfo, folder / "model.json").weights_sha256


def check_source(name: str) -> None:
    """Check that the kept source, cut by the plan, is the slim model up to the biases of compensation."""
    plan = records.load(PrunePlan, PRUNED / "plan.json")
    source, slim = store.load(PRUNED / "source"), store.load(PRUNED)
    assert plan.method == name
    assert plan.model_sha256 == source.info.weights_sha256 == slim.info.made_from
    assert source.info.made_from == weights(Path("runs/default/dense")) != source.info.weights_sha256
    for parameter, tensor in surgery.remove(source, plan.cuts).model.module.state_dict().items():
        same = torch.equal(tensor, slim.module.state_dict()[parameter])
        repaired = plan.compensation == "bias" and parameter.endswith(("proj.bias", "fc2.bias"))
        assert same or repaired, parameter


@pytest.mark.usefixtures("soft_gates")
def test_a_method_that_trains_is_killed_and_resumed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    def dying(extension: TrainingExtension, step: int) -> None:
        steps.append(step)
        if step == killed_at:
            raise Killed

    steps, killed_at = list[int](), -1
    monkeypatch.setattr(TrainingExtension, "after_step", dying)
    words = ("prune", "--method", "soft-gates", "--seed", "0")
    ended = command(*words)
    assert ended.code == 0, ended.err
    check_source("soft-gates")
    history = records.load(TrainingHistory, PRUNED / "history-0.json")
    assert history.objective == "erm and gates"
    uninterrupted = weights(PRUNED), weights(PRUNED / "source")
    total = len(steps)
    assert steps == list(range(total))
    assert total == history.steps

    killed_at = total // 2 + 1
    with pytest.raises(Killed):
        command(*words, "--force")
    steps, killed_at = list[int](), -1
    assert command(*words, "--force").code == 0
    assert steps == list(range(total // 2, total)), "the first two of four periods are not trained again"
    assert (weights(PRUNED), weights(PRUNED / "source")) == uninterrupted


@pytest.mark.usefixtures("soft_gates")
def test_a_result_depends_on_training_only_if_the_method_trains(command: Command) -> None:
    assert "pruned is up to date" in command("prune").err
    planned = command("prune", "--method", "soft-gates", "--dry-run")
    assert "changed: prune, train" in planned.err + planned.out
    ended = command("prune", "--method", "soft-gates", "--set", "train.epochs=0")
    assert ended.code == 2
    assert "prune.method 'soft-gates' trains the model, but train.epochs is 0" in ended.err


def test_a_change_of_basis_and_compensation(here: Path, command: Command) -> None:
    words = ("prune", "--method", "grouped", "--basis", "svd", "--compensation", "bias", "--axes", "qk,v,mlp")
    ended = command(*words)
    assert ended.code == 0, ended.err
    check_source("grouped")
    plan = records.load(PrunePlan, PRUNED / "plan.json")
    assert (plan.basis, plan.compensation) == ("svd", "bias")
    assert {cut.axis for cut in plan.cuts} == {"qk", "v", "mlp"}
    assert command(*words).made == []
    assert command("prune", "--basis", "svdd").code == 2


def test_without_basis_and_training_the_plan_refers_to_the_dense_model(here: Path) -> None:
    plan = records.load(PrunePlan, PRUNED / "plan.json")
    assert plan.model_sha256 == weights(Path("runs/default/dense"))
    assert not (PRUNED / "source").exists()


def test_calibration_images_are_those_of_the_source_domains(here: Path) -> None:
    settings = Recipe.model_validate(
        {"data": {"path": "path/to/photos", "hold_out": "sketch", "workers": 0}, "prune": {"samples": 7}}
    )
    run = Run(settings, RunFolder(here / "runs" / "default"))
    calibration = calibration_of(run, store.load(here / "runs/default/dense"))
    assert calibration.domains == ("ink", "photo")
    ink, photo = (torch.cat([batch.images for batch in calibration.of(name)]) for name in calibration.domains)
    assert (len(ink), len(photo)) == (4, 3)
    mixed = torch.cat([batch.images for batch in calibration.load()])
    assert torch.equal(mixed[0::2], ink)
    assert torch.equal(mixed[1::2], photo)


TABLE = PRUNED / "latency_table.json"


@pytest.fixture
def uniform_mlp(here: Path, install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs the method `uniform-mlp` of the tests; tables are not those of other tests."""
    install({"uniform_mlp": (METHODS / "uniform_mlp.py").read_text()}, [("method", "uniform-mlp", "uniform_mlp")])
    monkeypatch.setenv("VIT_TOOLKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("uniform_mlp")
def test_a_latency_budget(command: Command) -> None:
    """The table, the dense and the slim model are measured in onnxruntime; no duration is asserted."""
    words = ("prune", "--method", "uniform-mlp", "--budget", "latency=0.85", "--at-batch", "2", "--runtime")
    ended = command(*words, "onnxruntime")
    if "smallest reachable" in ended.err:  # on a busy machine, this model's MLPs may seem to take no time
        pytest.skip(ended.err)
    assert ended.code == 0, ended.err
    plan, table = records.load(PrunePlan, PRUNED / "plan.json"), records.load(LatencyTable, TABLE)
    assert plan.budget == "latency=0.85"
    assert plan.latency is not None
    assert (plan.latency.runtime, plan.latency.batch_size, table.batch_size) == ("onnxruntime", 2, 2)
    assert plan.achieved == plan.latency.measured_ms / plan.latency.dense_ms
    assert "ms predicted" in ended.err
    assert command(*words, "onnxruntime").made == []
    assert "changed: " in command(*words, "openvino", "--dry-run").err


@pytest.mark.usefixtures("uniform_mlp")
def test_settings_of_a_latency_have_no_effect_on_other_budgets(command: Command) -> None:
    words = ("prune", "--method", "uniform-mlp", "--budget", "macs=0.8")
    assert command(*words).made == ["pruned"]
    ended = command(*words, "--at-batch", "8", "--runtime", "openvino", "--device", "null")
    assert (ended.code, ended.made) == (0, [])
    assert "prune.at_batch=8 has no effect: the budget is not a latency" in ended.err
