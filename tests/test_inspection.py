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
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.models.tokens import with_tokens
from toolkit.records import Cut, Merge, PrunePlan

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
    assert f"{after['blocks'][0]['mlp_width']}/{before['blocks'][0]['mlp_width']}" in ended.err
    assert f"{len(after['blocks'][0]['layout']['heads'])}/4" in ended.err


def test_a_run_without_its_pruned_model_shows_the_dense_one(command: Command, tmp_path: Path) -> None:
    shutil.copytree(RUN / "dense", tmp_path / "dense")
    (only,) = yaml.safe_load(command("inspect", tmp_path, "--json").out)
    assert only["embed_width"] == 64


def test_a_block_that_is_gone_is_shown_as_removed(command: Command, tmp_path: Path) -> None:
    settings = ("--set", "prune.axes=[block]", "--ratio", "0.5", "--set", "train.epochs=0")
    ended = command("prune", "--recipe", "toolkit.yaml", "--run", tmp_path / "short", *settings)
    assert ended.code == 0, ended.err
    rows = [line.split() for line in command("inspect", tmp_path / "short").err.splitlines()]
    assert ["0", "removed"] in rows or ["1", "removed"] in rows


@pytest.fixture
def merged_run(small: Callable[..., Model], tmp_path: Path) -> Path:
    """A run folder with a model of 17 tokens, and what a plan with merges made of it."""
    run = tmp_path / "merged"
    dense = small(depth=4, image_size=32).save(run / "dense")
    plan = replace(
        records.load(PrunePlan, RUN / "pruned" / "plan.json"),
        cuts=(Cut("blocks.0.attn", "head", (1,)), Cut("blocks", "block", (2,))),
        merges=(Merge(0, 12), Merge(1, 9, "grid")),
        trim_last_block=True,
        basis="[svd]",
    )
    slim = remove(with_tokens(dense, plan.merges, plan.trim_last_block), plan.cuts).model
    slim.with_info(replace(slim.info, made_from=dense.info.weights_sha256)).save(run / "pruned")
    records.save(plan, run / "pruned" / "plan.json")
    return run


def rows_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.mark.parametrize("path", ["", "pruned"])
def test_what_pruning_left_is_shown_for_a_run_and_for_its_pruned_model(
    command: Command, merged_run: Path, path: str
) -> None:
    rows = rows_of(command("inspect", merged_run / path).err)
    assert "vit_tiny_patch16_224 at 32 px: kept by pruning" in rows
    assert "block heads query/key value MLP tokens in tokens out MACs" in rows
    assert sum(row.startswith("0 2/3 16/24 16/24 48/48 17 12 ") for row in rows) == 1
    assert sum(row.startswith("3 3/3 24/24 24/24 48/48 9 1 ") for row in rows) == 1
    assert "2 removed" in rows
    assert "the last block computes the class token only" in rows


def test_a_pruned_model_is_shown_in_its_own_numbers_too(command: Command, merged_run: Path) -> None:
    rows = rows_of(command("inspect", merged_run / "pruned").err)
    assert any(row.startswith("0 2 x (8, 8) 48 17 -> 12 ") for row in rows)


def test_the_original_is_found_in_the_source_folder(command: Command, merged_run: Path) -> None:
    (merged_run / "dense").rename(merged_run / "pruned" / "source")
    assert "2 removed" in rows_of(command("inspect", merged_run / "pruned").err)


@pytest.mark.parametrize("fault", ["missing", "another", "damaged"])
def test_without_its_original_a_pruned_model_is_shown_alone(
    command: Command, merged_run: Path, small: Callable[..., Model], fault: str
) -> None:
    dense = merged_run / "dense"
    if fault == "missing":
        shutil.rmtree(dense)
    elif fault == "another":
        small(depth=4, image_size=32, mlp_ratio=3.0).save(dense)
    else:
        (dense / "model.safetensors").write_bytes(b"damaged")
    ended = command("inspect", merged_run / "pruned")
    assert ended.code == 0
    assert "17 -> 12" in ended.err
    assert "kept by pruning" not in ended.err


@pytest.mark.parametrize("alone", [False, True])
def test_a_plan_names_all_that_it_does(command: Command, merged_run: Path, tmp_path: Path, alone: bool) -> None:
    file = merged_run / "pruned" / "plan.json"
    if alone:
        file = Path(shutil.copy(file, tmp_path / "plan.json"))
    rows = rows_of(command("inspect", file).err)
    assert "blocks.0.attn head 1" in rows
    assert "basis: [svd]; compensation: none" in rows
    assert f"after the attention of block 0: {'' if alone else '17 -> '}12 tokens, bipartite" in rows
    assert "after the attention of block 1: 12 -> 9 tokens, grid" in rows
    assert "the last block computes only the tokens that the classifier reads" in rows


def test_a_plan_is_shown_next_to_a_damaged_model(command: Command, merged_run: Path) -> None:
    (merged_run / "pruned" / "model.safetensors").write_bytes(b"damaged")
    ended = command("inspect", merged_run / "pruned" / "plan.json")
    assert ended.code == 0
    assert "after the attention of block 0: 12 tokens, bipartite" in ended.err


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
