"""`toolkit inspect` on everything a run holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit import records

Command = Callable[..., Any]
RUN = Path("runs/default")


@pytest.fixture(autouse=True)
def _in_the_working_folder(finished: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished[0])
    monkeypatch.setenv("COLUMNS", "160")


def test_a_run_shows_before_and_after(command: Command) -> None:
    ended = command("inspect", RUN)
    assert (ended.code, ended.out) == (0, "")
    before, after = yaml.safe_load(command("inspect", RUN, "--json").out)
    assert before["macs"] > after["macs"]
    assert f"{before['parameters']:,} -> {after['parameters']:,}" in ended.err
    assert f"{before['blocks'][0]['mlp_width']} -> {after['blocks'][0]['mlp_width']}" in ended.err
    assert "4 x (16, 16) -> " in ended.err


def test_a_run_without_its_pruned_model_shows_the_dense_one(command: Command, tmp_path: Path) -> None:
    shutil.copytree(RUN / "dense", tmp_path / "dense")
    (only,) = yaml.safe_load(command("inspect", tmp_path, "--json").out)
    assert only["embed_width"] == 64


def test_a_block_that_is_gone_is_shown_as_removed(command: Command, tmp_path: Path) -> None:
    settings = ("--set", "prune.axes=[block]", "--ratio", "0.5", "--set", "train.epochs=0")
    ended = command("prune", "--recipe", "toolkit.yaml", "--run", tmp_path / "short", *settings)
    assert ended.code == 0, ended.err
    assert "removed" in command("inspect", tmp_path / "short").err


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("dense", records.ModelSummary),
        ("finetuned", records.ModelSummary),
        ("pruned/plan.json", records.PrunePlan),
        ("artifacts/onnx-fp32", records.Artifact),
        ("artifacts/onnx-fp32/artifact.json", records.Artifact),
        ("artifacts/onnx-fp32/model.onnx", records.Artifact),
    ],
)
def test_json_is_the_record(command: Command, path: str, kind: type) -> None:
    assert isinstance(records.loads(kind, command("inspect", RUN / path, "--json").out), kind)


def test_a_plan_shows_budget_and_cuts(command: Command) -> None:
    plan = records.load(records.PrunePlan, RUN / "pruned" / "plan.json")
    text = " ".join(command("inspect", RUN / "pruned" / "plan.json").err.split())
    assert f"{plan.budget} requested, {plan.achieved:.3f} achieved" in text
    assert all(cut.place in text for cut in plan.cuts)


def test_an_artifact_shows_what_a_runtime_must_know(command: Command) -> None:
    artifact = records.load(records.Artifact, RUN / "artifacts/onnx-fp32/artifact.json")
    text = command("inspect", RUN / "artifacts/onnx-fp32").err
    assert artifact.sha256 in text
    assert artifact.inputs[0].name in text
    assert "mean 0.485 0.456 0.406, std 0.229 0.224 0.225, bicubic, squash" in text


@pytest.mark.parametrize(
    ("kind", "folder", "file", "fields"),
    [
        (records.Artifact, "artifacts/onnx-fp32", "artifact.json", ("file", "target")),
        (records.PrunePlan, "pruned", "plan.json", ("method", "criterion", "scope")),
    ],
)
def test_names_are_shown_to_the_letter(
    command: Command, tmp_path: Path, kind: type, folder: str, file: str, fields: tuple[str, ...]
) -> None:
    names = dict(zip(fields, ("[bold]", "a[/b]:smile:", "$x$"), strict=False))
    record = replace(records.load(kind, RUN / folder / file), **names)
    if isinstance(record, records.Artifact):
        record = replace(record, notes=("see [red] and [/red]",))
        names["notes"] = "see [red] and [/red]"
    records.save(record, tmp_path / file)
    ended = command("inspect", tmp_path)
    assert ended.code == 0, ended.err
    for name in names.values():
        assert name in ended.err


@pytest.mark.parametrize(
    ("path", "message"), [("path", "path is not a run, model folder"), ("gone", "gone does not exist")]
)
def test_what_is_nothing_of_ours(command: Command, path: str, message: str) -> None:
    ended = command("inspect", path)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert "model.json" in ended.err
