"""Torch-Pruning as a method: the budget, the same logits as its own module, and a run folder that goes on."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import toolkit
from toolkit import plugins, recipe, records
from toolkit.dg.batches import Batch
from toolkit.errors import BudgetError, CheckFailed, RecipeError, UnsupportedModel
from toolkit.models import surgery
from toolkit.models.model import Model
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job, method
from toolkit.records import PrunePlan, StageRecord

PEERS = Path(__file__).parents[2] / "examples" / "peers"
MODULE = "torch_pruning_method"
RUN, OUT = Path("runs/default"), Path("runs/peer")


@pytest.fixture
def peer(install: Callable[..., Path]) -> Any:
    """The plug-in's module, installed with the entry point of `pyproject.toml`."""
    points = re.findall(r'^(\S+) = "(\w+):PLUGIN"$', (PEERS / "pyproject.toml").read_text(), re.MULTILINE)
    files = {MODULE: (PEERS / f"{MODULE}.py").read_text()}
    # By the package's own name, so that it takes the place of one that is installed.
    install(files, [("method", *point) for point in points], package="vit_toolkit_peers")
    return importlib.import_module(MODULE)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(PEERS)
    return importlib.import_module("torch_pruning_taylor")


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 3)


@pytest.fixture
def job(batch: Batch) -> Callable[..., Job]:
    def make(**settings: object) -> Job:
        chosen = recipe.Prune.model_validate({"method": "torch-pruning", "round_to": 1, **settings})
        return Job(chosen, Calibration(lambda _: [batch], ("all",), seed=0), seed=0)

    return make


def identified(model: Model) -> Model:
    return model.with_info(replace(model.info, weights_sha256="ab" * 32))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit_tiny_patch16_224", {"scope": "isomorphic"}),
        ("vit_tiny_patch16_224", {"scope": "global", "budget": "params=0.6"}),
        ("deit_tiny_distilled_patch16_224", {"scope": "local"}),
        ("deit_tiny_distilled_patch16_224", {"scope": "isomorphic", "axes": ["head", "mlp", "embed"]}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_the_plan_is_what_torch_pruning_removes(
    peer: Any, job: Callable[..., Job], small: Callable[..., Model], name: str, settings: dict[str, Any]
) -> None:
    dense = identified(small(name, depth=3, embed_dim=48, mlp_ratio=4.0))
    asked = job(**settings)
    method("torch-pruning").check(asked.settings)
    plan = method("torch-pruning").prune(dense, asked).plan
    assert asked.budget.fraction * 0.98 <= plan.achieved <= asked.budget.fraction
    assert {cut.axis for cut in plan.cuts} == set(asked.settings.axes)
    assert (plan.method, plan.criterion, plan.scope) == ("torch-pruning", "taylor", asked.settings.scope)

    slim = surgery.remove(dense, plan.cuts).model
    assert asked.budget.remaining(slim.cost, dense.cost) == pytest.approx(plan.achieved)


def test_other_units_than_torch_prunings_are_noticed(
    peer: Any, job: Callable[..., Job], small: Callable[..., Model], batch: Batch
) -> None:
    dense = small(depth=3, embed_dim=48, mlp_ratio=4.0)
    theirs = peer.Peer(dense, job().settings, [batch])
    fractions = peer.Fractions(heads=0.3, widths=0.3)
    cuts, module = theirs.cuts(fractions), theirs.pruned(fractions)
    assert [cut.axis for cut in cuts].count("head") > 0
    assert sum(len(cut.units) for cut in cuts if cut.axis == "head") <= 3, "ceil(0.3 of 9 heads), or fewer"
    ours = surgery.remove(dense, cuts).model.module
    with torch.inference_mode():
        torch.testing.assert_close(ours(batch.images), module(batch.images), rtol=1e-5, atol=1e-5)
    peer.check_equal("it", ours, module, batch.images)
    (cut, *others) = sorted(cuts, key=lambda cut: cut.axis != "mlp")
    kept = min({*range(len(cut.units) + 1)} - {*cut.units})
    swapped = replace(cut, units=tuple(sorted((*cut.units[1:], kept))))
    with pytest.raises(CheckFailed, match="logits that differ"):
        peer.check_equal("it", surgery.remove(dense, [swapped, *others]).model.module, module, batch.images)
    with pytest.raises(CheckFailed, match="parameters instead of"):
        peer.check_equal("it", surgery.remove(dense, others).model.module, module, batch.images)


def test_a_run_goes_on_with_the_pruned_model(
    peer: Any, script: Any, here: Path, command: Callable[..., Any], capsys: pytest.CaptureFixture[str],
    snapshot: Callable[..., dict[str, str]],
) -> None:  # fmt: skip
    before = snapshot(RUN)
    assert script.main(["--run", str(RUN), "--out", str(OUT), "--budget", "0.6"]) == 0
    assert snapshot(RUN) == before
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["domain", "images", "dense", "pruned"]
    assert [line.split()[0] for line in lines] == ["ink", "photo"]

    dense, slim = toolkit.load(OUT / "dense"), toolkit.load(OUT / "pruned")
    assert 0.588 <= slim.cost.macs / dense.cost.macs <= 0.6
    assert records.load(PrunePlan, OUT / "pruned" / "plan.json").method == "torch-pruning"
    assert "torch-pruning" in records.load(StageRecord, OUT / "pruned" / "stage.json").inputs
    assert command("inspect", OUT / "pruned").code == 0
    ended = command("finetune", "--run", OUT, "--objective", "matching")
    assert ended.code == 0, ended.err
    assert ended.made == ["finetuned"]

    assert script.main(["--run", str(RUN), "--out", str(OUT)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_dense_model_is_not_trained_again(
    peer: Any, script: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = RUN / "flags.yaml"
    flags.write_text(flags.read_text().replace("flags: {}", "flags: {train.epochs: 9}"))
    assert script.main(["--run", str(RUN)]) == 2
    assert "is not up to date: changed: train" in capsys.readouterr().err
    assert script.main(["--run", "runs/none"]) == 2
    assert "has no dense model" in capsys.readouterr().err
    assert sorted(path.name for path in Path("runs").iterdir()) == ["default"]


def test_the_command_says_how_to_install_the_method(
    script: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "torch-pruning" in plugins.names("toolkit.prune.methods"):
        pytest.skip("it is installed here")
    assert script.main(["--run", str(RUN)]) == 5
    assert f"pip install {PEERS}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"criterion": "magnitude-l2"}, "prune.criterion is 'magnitude-l2'"),
        ({"basis": "svd"}, "prune.basis is 'svd'"),
        ({"steps": 2}, "it can be 1"),
        ({"axes": ["mlp"]}, "--axes head,mlp or"),
    ],
)
def test_other_settings_are_refused(
    peer: Any, job: Callable[..., Job], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        method("torch-pruning").check(job(**settings).settings)


def test_other_models_and_budgets_are_refused(peer: Any, job: Callable[..., Job], small: Callable[..., Model]) -> None:
    with pytest.raises(UnsupportedModel, match="beit_base_patch16_224 is neither"):
        method("torch-pruning").prune(small("beit_base_patch16_224"), job())
    with pytest.raises(BudgetError, match="no fraction"):
        peer.least_fractions(lambda fractions: 1 - fractions.heads / 2, 0.4)
    with pytest.raises(BudgetError, match=r"the closest is 0\.4"):  # half of the heads at once
        peer.least_fractions(lambda fractions: 1.0 if fractions.heads < 0.5 else 0.4, 0.5)


def test_the_smallest_fractions_are_found(peer: Any) -> None:
    """Heads are removed in steps; hidden units make up for it, and large fractions remove nothing."""

    def remaining(fractions: Any) -> float:
        return 1.0 if fractions.heads > 0.6 else 1 - 0.5 * int(10 * fractions.heads) / 10 - 0.5 * fractions.widths

    found = peer.least_fractions(remaining, 0.5)
    assert found.heads == pytest.approx(0.5, abs=2e-3)
    assert 0.499 <= remaining(found) <= 0.5
    assert found.widths == pytest.approx(0.5, abs=2e-3)
