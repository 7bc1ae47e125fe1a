"""Budgets that cannot be achieved, before and after training."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from toolkit import records

Command = Callable[..., Any]
Unchanged = Callable[..., AbstractContextManager[None]]


def test_an_unreachable_budget_suggests_the_closest_one(here: Path, command: Command, unchanged: Unchanged) -> None:
    with unchanged(here):
        ended = command("prune", "--budget", "macs=0.01")
    assert ended.code == 2
    (closest,) = re.findall(r"macs=0.01 cannot be achieved: the closest achievable budget is (macs=\S+)", ended.err)
    assert "--round-to" in ended.err
    assert command("prune", "--budget", closest).code == 0
    assert records.load(records.PrunePlan, Path("runs/default/pruned/plan.json")).budget == closest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--budget", "macs=0.6", "--axes", "head"],
            "macs=0.6 cannot be achieved: the closest achievable budget is macs=",
        ),
        (
            ["--budget", "params=0.99", "--axes", "head"],
            "params=0.99 cannot be achieved: the closest achievable budget is params=",
        ),
        (["--ratio", "0.01"], "ratio=0.01 removes nothing: the smallest possible cut of every layer is larger"),
    ],
    ids=str,
)
def test_a_budget_that_fails_for_any_scores_has_the_same_message_before_training(
    here: Path, command: Command, words: list[str], said: str
) -> None:
    early = command("prune", "--run", "runs/new", "--recipe", "toolkit.yaml", *words)
    assert (early.code, early.made) == (2, []), early.err
    late = command("prune", *words)
    assert late.code == 2, late.err
    for ended in (early, late):
        assert said in ended.err
    assert early.err[early.err.index("error:") :] == late.err[late.err.index("error:") :]


def test_an_unreachable_budget_is_refused_before_training(here: Path, command: Command) -> None:
    ended = command("prune", "--run", "runs/new", "--budget", "macs=0.01", "--recipe", "toolkit.yaml")
    assert (ended.code, ended.made) == (2, [])
    assert "the closest achievable budget" in ended.err
    assert not Path("runs/new").exists()
    ended = command("prune", "--image-size", "48", "--budget", "macs=0.01")
    assert (ended.code, ended.made) == (2, []), "nor a new one in place of another model's"


def test_a_basis_that_is_not_for_the_model_is_refused_before_training(here: Path, command: Command) -> None:
    words = ("--set", "model.args.qk_norm=true", "--method", "oneshot", "--axes", "v,mlp")
    ended = command("prune", "--run", "runs/new", "--recipe", "toolkit.yaml", *words)
    assert (ended.code, ended.made) == (2, []), ended.err
    assert "basis svd is not for blocks.0.attn, which normalises its queries and keys" in ended.err
    assert "--basis none" in ended.err


def test_results_made_before_the_error_keep_their_settings(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget may prove unachievable only with the trained model's scores; another budget needs no new training."""
    monkeypatch.setattr("toolkit.stages.prune.check_model", lambda run: None)
    ended = command("prune", "--run", "runs/new", "--seed", "9", "--budget", "macs=0.01", "--recipe", "toolkit.yaml")
    assert (ended.code, ended.made) == (2, ["dense", "pruned"])
    ended = command("prune", "--run", "runs/new", "--ratio", "0.3")
    assert (ended.code, ended.made) == (0, ["pruned"]), ended.err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("latency=4min", "unknown unit 'min' in prune.budget 'latency=4min'"),
        ("latency=0ms", "is not a latency between 1 us and 600 s"),
        ("latency=1e9s", "is not a latency between 1 us and 600 s"),
        ("latency=4", "needs a fraction between 0 and 1, or a number with a unit"),
        ("latency=fast", "needs a fraction between 0 and 1, or a number with a unit"),
        ("latency=0.5", "prune.method 'grouped' cannot prune to a budget of latency: latency=0.5"),
    ],
)
def test_latencies_that_are_none(command: Command, budget: str, said: str) -> None:
    ended = command("prune", "--budget", budget)
    assert (ended.code, ended.made) == (2, [])
    assert said in ended.err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "codes", "said"),
    [
        (("--device", "jetsn"), (2,), "unknown device 'jetsn'"),
        (("--runtime", "onnxruntim"), (2,), "did you mean onnxruntime"),
        (("--runtime", "null"), (2,), "runtime 'null' opens no exported files"),
        (("--at-batch", "65"), (2,), "prune.at_batch is 65, but files are exported for batch sizes 1, 8, 64"),
        (("--set", "export.precision=bf16"), (2,), "onnxruntime has no bf16 CPU kernels"),
        (("--runtime", "tensorrt"), (4, 5), "tensorrt"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) and isinstance(value[-1], str) else "",
)
def test_a_latency_that_cannot_be_measured(
    command: Command, install: Callable[..., Path], words: tuple[str, str], codes: tuple[int, ...], said: str
) -> None:
    method = Path(__file__).parents[1] / "prune" / "methods" / "uniform_mlp.py"
    install({"uniform_mlp": method.read_text()}, [("method", "uniform-mlp", "uniform_mlp")])
    ended = command("prune", "--method", "uniform-mlp", "--budget", "latency=0.5", *words)
    assert ended.code in codes, ended.err
    assert (said in ended.err, ended.made) == (True, []), ended.err
    if words[0] == "--at-batch":
        grouped = command("prune", "--budget", "latency=0.5")
        assert "--method oneshot or resolution or uniform-mlp" in grouped.err, "the methods that can"


def test_oneshot_refuses_a_budget_below_all_floors_before_training(command: Command) -> None:
    ended = command("prune", "--set", "prune.method=oneshot", "--budget", "macs=0.01")
    assert (ended.code, ended.made) == (2, [])
    assert "0.01 of the MACs cannot be reached: the smallest model that this search knows has 0." in ended.err
