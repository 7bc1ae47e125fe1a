"""Run folders that another version, another command or a person has touched, and disks that are full."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from toolkit import records, runfolder
from toolkit.dg.image_check import CheckedImages
from toolkit.stages import IMAGE_CHECK

Command = Callable[..., Any]
Unchanged = Callable[..., AbstractContextManager[None]]
SmallDisk = Callable[[int], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("dense/stage.json", lambda text: text.replace('"schema": 1', '"schema": 99')),
        ("bench/onnxruntime-local/stage.json", lambda text: text.replace('"seconds"', '"secs"')),
        ("dense/stage.json", lambda text: text[:40]),
        ("dense/stage.json", None),
    ],
    ids=["other schema", "other field", "truncated", "another tool's"],
)
def test_run_folder_of_another_version(
    here: Path, command: Command, unchanged: Unchanged, file: str, spoil: Callable[[str], str] | None
) -> None:
    path = here / "runs/default" / file
    if spoil is None:
        path.unlink()
    else:
        assert spoil(path.read_text()) != path.read_text()
        path.write_text(spoil(path.read_text()))
    with unchanged(here, ".work"):
        ended = command("run", "--seed", "4")
    assert ended.code == 2
    assert f"runs/default/{Path(file).parent} was written by another version of the toolkit, or not by it" in ended.err
    assert "--run DIR" in ended.err
    assert ("pip install -U vit-toolkit" in ended.err) == ("schema 99" in ended.err)


def test_run_folder_that_is_a_file(here: Path, command: Command, unchanged: Unchanged) -> None:
    with unchanged(here):
        ended = command("train", "--run", "toolkit.yaml", "--recipe", "toolkit.yaml")
    assert ended.code == 2
    assert "toolkit.yaml is not a folder" in ended.err


def test_flags_of_the_run_that_are_damaged(here: Path, command: Command, unchanged: Unchanged) -> None:
    (here / "runs/default/flags.yaml").write_text("flags: [")
    with unchanged(here):
        ended = command("prune")
    assert ended.code == 2
    assert "flags.yaml: invalid YAML: an unclosed bracket" in ended.err


@pytest.mark.parametrize("text", ["[1", "[]", '{"a": "b"}'])
def test_notes_on_images_that_are_damaged_are_made_again(here: Path, command: Command, text: str) -> None:
    notes = Path("runs/default") / IMAGE_CHECK
    notes.write_text(text)
    ended = command("prune")
    assert (ended.code, ended.made) == (0, []), ended.err
    assert "checking images" in ended.err
    assert len(records.load(CheckedImages, notes).files) == 90


def test_two_commands_in_one_run_folder(here: Path, command: Command, unchanged: Unchanged) -> None:
    with runfolder.opened(Path("runs/default")), unchanged(here):
        ended = command("prune", "--force")
    assert ended.code == 2
    assert "another toolkit command is using runs/default" in ended.err
    assert "wait" in ended.err


def test_a_record_that_is_changed_by_hand_is_named(here: Path, command: Command) -> None:
    file = here / "runs/default/pruned/plan.json"
    content = json.loads(file.read_text())
    del content["criterion"]
    file.write_text(json.dumps(content))
    ended = command("inspect", "runs/default/pruned/plan.json")
    assert ended.code == 2
    assert "plan.json" in ended.err
    assert "criterion" in ended.err


LIVING = ("log.jsonl", "environment.json", ".work")


@pytest.mark.parametrize(("stage", "bytes_free"), [("train", 9000), ("train", 430_000),
    ("finetune", 9000), ("export", 20_000), ("report", 20_000)])  # fmt: skip
def test_full_disk(
    here: Path, command: Command, unchanged: Unchanged, small_disk: SmallDisk, stage: str, bytes_free: int
) -> None:
    with unchanged(here, *LIVING), small_disk(bytes_free):
        ended = command(stage, "--force")
    assert ended.code == 2, ended.err
    assert "free disk space" in ended.err
    again = command(stage)
    assert again.code in (0, 3), again.err
    assert again.made == []


@pytest.mark.parametrize(
    ("stage", "file"), [("prune", "plan.json"), ("parity", "parity.json"), ("bench", "bench.json")]
)
def test_full_disk_at_a_record(
    here: Path, command: Command, unchanged: Unchanged, monkeypatch: pytest.MonkeyPatch, stage: str, file: str
) -> None:
    save = records.save

    def refuse(record: object, path: Path) -> None:
        if path.name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(record, path)

    monkeypatch.setattr(records, "save", refuse)
    with unchanged(here, *LIVING):
        ended = command(stage, "--force")
    assert ended.code == 2
    assert "the disk is full: runs/default" in ended.err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert command(stage).code in (0, 3)


def test_disk_that_fills_up_in_a_new_run_keeps_the_checkpoint(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.models.model import Model

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Model, "save", refuse)
        ended = command("train", "--run", "runs/new", "--recipe", "toolkit.yaml")
    assert ended.code == 2
    assert "the rest resumes" in ended.err
    ended = command("train", "--run", "runs/new")
    assert ended.code == 0
    assert "step " in ended.err
    assert "train: 3/" not in ended.err, "no step is trained again"
