"""Bad input ends with a clear message, a hint and exit code 2; nothing is written, and nothing is lost."""

from __future__ import annotations

import errno
import json
import pickle
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file

from toolkit import records, runfolder

Command = Callable[..., Any]
Snapshot = Callable[..., dict[str, str]]

NAMES = [
    (["train", "--model", "deit_tiny_patch16_22"], "unknown model 'deit_tiny_patch16_22'", "deit_tiny_patch16_224"),
    (["prune", "--method", "groupd"], "unknown method 'groupd'", "did you mean grouped?"),
    (["prune", "--criterion", "hesian"], "unknown criterion 'hesian'", "did you mean hessian?"),
    (["prune", "--scope", "globl"], "unknown allocator 'globl'", "did you mean global"),
    (["train", "--objective", "emr"], "unknown objective 'emr'", "did you mean erm?"),
    (["finetune", "--optimizer", "adamv"], "unknown optimizer 'adamv'", "did you mean adam"),
    (["finetune", "--schedule", "cosin"], "unknown schedule 'cosin'", "did you mean cosine?"),
    (["train", "--hold-out", "sketsh"], "unknown domain 'sketsh'", "did you mean sketch?"),
    (["run", "--until", "prun"], "unknown stage 'prun'", "did you mean prune"),
    (["bench", "--runtime", "onnxruntim"], "unknown runtime 'onnxruntim'", "did you mean onnxruntime?"),
    (["bench", "--device", "lokal"], "unknown device 'lokal'", "did you mean local?"),
    (["export", "--set", "export.targets=[onxx]"], "unknown target 'onxx'", "did you mean onnx?"),
    (["prune", "--set", "prune.ratoi=0.5"], "unknown setting 'prune.ratoi'", "did you mean ratio"),
    (["prune", "--set", "prun.ratio=0.5"], "unknown setting 'prun'", "did you mean prune"),
]
VALUES = [
    (["prune", "--ratio", "0"], "prune.ratio = 0.0: it should be greater than 0", ""),
    (["prune", "--ratio", "1"], "prune.ratio = 1.0: it should be less than 1", ""),
    (["prune", "--ratio", "-0.1"], "prune.ratio = -0.1: it should be greater than 0", ""),
    (["prune", "--ratio", "0.5", "--budget", "macs=0.5"], "ratio and budget exclude each other", ""),
    (
        ["prune", "--budget", "macs=1.5"],
        "prune.budget 'macs=1.5' needs a share between 0 and 1",
        "for example macs=0.5",
    ),
    (["prune", "--budget", "mac=0.5"], "unknown budget 'mac'", "did you mean macs?"),
    (["prune", "--budget", "latency=0.5"], "unknown budget 'latency'", ""),
    (["prune", "--axes", "head,tail"], "prune.axes.1 = 'tail'", ""),
    (["prune", "--set", "prune.axes=[]"], "axes is empty", ""),
    (["prune", "--set", "prune.ratio"], "is not section.setting=value", "for example"),
    (["prune", "--set", "prune.ratio=["], "the value is not YAML", ""),
    (["prune", "--set", "seed.x=1"], "on the command line: seed = {'x': 1}: it should be a valid integer", ""),
    (["prune", "--set", "run=elsewhere"], "the run folder is not a --set", "--run DIR"),
    (["train", "--recipe", "nowhere.yaml"], "recipe nowhere.yaml does not exist", "`toolkit init` writes one"),
    (["train", "--recipe", "path"], "path cannot be read", ""),
    (["train", "--weights", "nowhere.safetensors"], "weights file nowhere.safetensors does not exist", "give a file"),
    (["train", "--data", "nowhere"], "nowhere is not there", "name a folder of images"),
    (["bench", "--batch-size", "0"], "bench.batch_size.0 = '0'", ""),
]


@pytest.fixture(scope="module")
def same_here(finished: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy of the finished run for all commands that must not change it."""
    folder = tmp_path_factory.mktemp("bad") / "work"
    shutil.copytree(finished[0], folder)
    return folder


@contextmanager
def refused(folder: Path, snapshot: Snapshot, *but: str) -> Iterator[None]:
    """Nothing in `folder` changes."""
    before = snapshot(folder, *but)
    yield
    assert snapshot(folder, *but) == before


@pytest.mark.parametrize("case", [*NAMES, *VALUES], ids=lambda case: " ".join(case[0]))
@pytest.mark.parametrize("run", ["runs/default", "more/runs/new"])
def test_bad_setting(
    same_here: Path,
    command: Command,
    snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[list[str], str, str],
    run: str,
) -> None:
    words, message, hint = case
    monkeypatch.chdir(same_here)
    recipe = [] if "--recipe" in words else ["--recipe", "toolkit.yaml"]
    with refused(same_here, snapshot):
        ended = command(*words, *recipe, "--run", run)
    assert (ended.code, ended.out) == (2, ""), ended.err
    assert message in ended.err
    assert hint in ended.err
    assert not list(Path("runs").glob("new"))


def made(text: str) -> list[str]:
    return re.findall(r": making (\S+)", text)


def test_budget_that_cannot_be_met_says_the_closest_that_can(here: Path, command: Command, snapshot: Snapshot) -> None:
    with refused(here, snapshot):
        ended = command("prune", "--budget", "macs=0.01")
    assert ended.code == 2
    (closest,) = re.findall(r"macs=0.01 cannot be met: the closest that can is (macs=\S+)", ended.err)
    assert "--round-to" in ended.err
    assert command("prune", "--budget", closest).code == 0
    assert records.load(records.PrunePlan, Path("runs/default/pruned/plan.json")).budget == closest


def test_a_budget_that_no_training_can_meet_is_refused_before_any(here: Path, command: Command) -> None:
    ended = command("prune", "--run", "runs/new", "--budget", "macs=0.01", "--recipe", "toolkit.yaml")
    assert (ended.code, made(ended.err)) == (2, [])
    assert "the closest that can" in ended.err
    assert not Path("runs/new").exists()


def test_what_was_made_before_bad_input_keeps_its_settings(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the trained model's scores may show a budget to be bad; it is not trained again for other settings."""
    monkeypatch.setattr("toolkit.stages.prune._check_budget", lambda run: None)
    ended = command("prune", "--run", "runs/new", "--seed", "9", "--budget", "macs=0.01", "--recipe", "toolkit.yaml")
    assert (ended.code, made(ended.err)) == (2, ["dense", "pruned"])
    ended = command("prune", "--run", "runs/new", "--ratio", "0.3")
    assert (ended.code, made(ended.err)) == (0, ["pruned"]), ended.err


PHOTOS = "path/to/photos"


def remove_domains(photos: Path) -> None:
    shutil.rmtree(photos / "ink")
    shutil.rmtree(photos / "photo")


def remove_class(photos: Path) -> None:
    shutil.rmtree(photos / "photo" / "class1")


def break_image(photos: Path) -> None:
    file = photos / "ink" / "class0" / "3.png"
    file.write_bytes(file.read_bytes()[:60])


def remove_images(photos: Path) -> None:
    for file in photos.rglob("*.png"):
        file.unlink()


def add_depth(photos: Path) -> None:
    shutil.copy(photos / "ink" / "class0" / "3.png", photos / "ink" / "3.png")


@pytest.mark.parametrize(
    "case",
    [
        (remove_domains, "path/to/photos has one domain, sketch, so none can be held out", "--hold-out none"),
        (remove_class, "domain photo has no images of class1, which ink, sketch has", "every domain needs images"),
        (break_image, "1 image cannot be decoded: ink/class0/3.png", "--skip-broken"),
        (remove_images, "path/to/photos holds no images", "DOMAIN/CLASS/image"),
        (add_depth, "path/to/photos has images at two depths: ink/3.png", "DOMAIN/CLASS/image"),
    ],
)
@pytest.mark.parametrize("run", ["runs/default", "runs/new"])
def test_images_that_cannot_be_learned_from(
    here: Path,
    command: Command,
    snapshot: Snapshot,
    case: tuple[Callable[[Path], None], str, str],
    run: str,
) -> None:
    spoil, message, hint = case
    spoil(here / PHOTOS)
    with refused(here, snapshot):
        ended = command("train", "--run", run, "--recipe", "toolkit.yaml")
    assert ended.code == 2
    assert f"error: {message}" in ended.err
    assert hint in ended.err


def test_skip_broken_goes_on_and_counts(here: Path, command: Command) -> None:
    break_image(here / PHOTOS)
    ended = command("train", "--skip-broken", "--epochs", "0")
    assert ended.code == 0, ended.err
    assert "1 broken images left out: ink/class0/3.png" in ended.err


def test_one_domain_can_be_learned_from_when_none_is_held_out(here: Path, command: Command) -> None:
    ended = command("train", "--run", "runs/one", "--data", f"{PHOTOS}/ink", "--hold-out", "none", "--epochs", "0")
    assert ended.code == 0, ended.err
    assert records.load(records.ModelInfo, Path("runs/one/dense/model.json")).classes == ("class0", "class1", "class2")


def plain_weights() -> dict[str, torch.Tensor]:
    """A timm model for these classes, as somebody else has saved it."""
    args: dict[str, Any] = yaml.safe_load(Path("toolkit.yaml").read_text())["model"]["args"]
    model = timm.create_model("deit_tiny_patch16_224", num_classes=3, img_size=32, **args)
    return dict(model.state_dict())


def test_weights_that_do_not_fit_are_named(here: Path, command: Command, snapshot: Snapshot) -> None:
    tensors = plain_weights()
    tensors["cls_token"] = torch.zeros(1, 1, 7)
    del tensors["norm.weight"]
    tensors["surplus"] = torch.zeros(2)
    save_file(tensors, here / "bad.safetensors")
    with refused(here, snapshot):
        ended = command("train", "--weights", "bad.safetensors")
    assert ended.code == 2
    for part in (
        "norm.weight is missing",
        "surplus is not part of the model",
        "cls_token is [1, 1, 7], the model needs",
    ):
        assert part in ended.err
    assert "model.image_size" in ended.err


class Payload:
    """Unpickling it would write a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_weights_that_would_need_unpickling_are_not_executed(
    here: Path, command: Command, snapshot: Snapshot, how: str
) -> None:
    file = here / "bad.pth"
    if how == "pickle":
        file.write_bytes(pickle.dumps(Payload()))
    else:
        torch.save({"model": Payload()}, file)
    with refused(here, snapshot):
        ended = command("train", "--weights", "bad.pth")
    assert ended.code == 2
    assert "bad.pth cannot be read as plain tensors" in ended.err
    assert "unpickling could run code" in ended.err
    assert not (here / "executed").exists()


def test_weights_file_that_is_truncated(here: Path, command: Command, snapshot: Snapshot) -> None:
    whole = (here / "runs/default/dense/model.safetensors").read_bytes()
    (here / "bad.safetensors").write_bytes(whole[: len(whole) // 2])
    with refused(here, snapshot):
        ended = command("train", "--weights", "bad.safetensors")
    assert ended.code == 2
    assert "bad.safetensors is truncated or not a safetensors file" in ended.err


def test_model_of_the_run_that_is_truncated(here: Path, command: Command, snapshot: Snapshot) -> None:
    file = here / "runs/default/dense/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with refused(here, snapshot):
        ended = command("prune", "--force")
    assert ended.code == 2
    assert "dense/model.safetensors is truncated" in ended.err
    assert command("inspect", "runs/default/dense").code == 2
    assert command("train", "--force").code == 0
    assert command("prune", "--force").code == 0


def test_no_epochs_and_a_head_for_other_classes(here: Path, command: Command, snapshot: Snapshot) -> None:
    tensors = plain_weights()
    tensors |= {"head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)}
    save_file(tensors, here / "five.safetensors")
    with refused(here, snapshot):
        ended = command("train", "--weights", "five.safetensors", "--epochs", "0")
    assert ended.code == 2
    assert "not trained for these 3 classes: head.weight, head.bias would be random" in ended.err
    assert "--epochs" in ended.err


def test_no_epochs_takes_a_trained_model_as_it_is(here: Path, command: Command) -> None:
    tensors = plain_weights()
    save_file(tensors, here / "mine.safetensors")
    assert command("train", "--weights", "mine.safetensors", "--epochs", "0").code == 0
    after = load_file(here / "runs/default/dense/model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in tensors.items() if name in after)
    assert torch.equal(after["head.weight"], tensors["head.weight"])


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
    here: Path, command: Command, snapshot: Snapshot, file: str, spoil: Callable[[str], str] | None
) -> None:
    path = here / "runs/default" / file
    if spoil is None:
        path.unlink()
    else:
        assert spoil(path.read_text()) != path.read_text()
        path.write_text(spoil(path.read_text()))
    with refused(here, snapshot, ".work"):
        ended = command("run", "--seed", "4")
    assert ended.code == 2
    assert f"runs/default/{Path(file).parent} was written by another version of the toolkit, or not by it" in ended.err
    assert "--run DIR" in ended.err


def test_run_folder_that_is_a_file(here: Path, command: Command, snapshot: Snapshot) -> None:
    with refused(here, snapshot):
        ended = command("train", "--run", "toolkit.yaml", "--recipe", "toolkit.yaml")
    assert ended.code == 2
    assert "toolkit.yaml is not a folder" in ended.err


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "prune:\n  ratio: 0.5\n  critrion: taylor\n",
            "bad.yaml, line 3: unknown setting 'prune.critrion'",
            "criterion",
        ),
        ("seed: 1\nprun: {}\n", "bad.yaml, line 2: unknown setting 'prun'", "did you mean prune"),
        ("train:\n  epochs: many\n", "bad.yaml, line 2: train.epochs = 'many': it should be a valid integer", ""),
        ("prune:\n  axes:\n  - head\n  - tail\n", "bad.yaml, line 2: prune.axes.1 = 'tail'", ""),
        ("prune: {ratio: 0.5, budget: macs=0.5}\n", "bad.yaml, line 1: prune = ", ""),
        ("train: 5\n", "bad.yaml, line 1: train = 5", ""),
        ("prune: [1\n", "bad.yaml is not YAML", ""),
        ("- 1\n", "bad.yaml must hold sections of settings", ""),
    ],
)
def test_bad_recipe(here: Path, command: Command, snapshot: Snapshot, text: str, message: str, hint: str) -> None:
    (here / "bad.yaml").write_text(text)
    with refused(here, snapshot):
        ended = command("run", "--recipe", "bad.yaml")
    assert ended.code == 2
    assert message in ended.err
    assert hint in ended.err


def test_flags_of_the_run_that_are_damaged(here: Path, command: Command, snapshot: Snapshot) -> None:
    (here / "runs/default/flags.yaml").write_text("flags: [")
    with refused(here, snapshot):
        ended = command("prune")
    assert ended.code == 2
    assert "flags.yaml is not YAML" in ended.err


@contextmanager
def small_disk(bytes_free: int) -> Iterator[None]:
    """No file may grow beyond this, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


LIVING = ("log.jsonl", "environment.json", ".work")


@pytest.mark.parametrize(("stage", "bytes_free"), [("train", 9000), ("train", 430_000),
    ("finetune", 9000), ("export", 20_000), ("report", 20_000)])  # fmt: skip
def test_full_disk(here: Path, command: Command, snapshot: Snapshot, stage: str, bytes_free: int) -> None:
    with refused(here, snapshot, *LIVING), small_disk(bytes_free):
        ended = command(stage, "--force")
    assert ended.code == 2, ended.err
    assert "make room" in ended.err
    again = command(stage)
    assert again.code in (0, 3), again.err
    assert made(again.err) == []


@pytest.mark.parametrize(
    ("stage", "file"), [("prune", "plan.json"), ("parity", "parity.json"), ("bench", "bench.json")]
)
def test_full_disk_at_a_record(
    here: Path, command: Command, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, stage: str, file: str
) -> None:
    save = records.save

    def refuse(record: object, path: Path) -> None:
        if path.name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(record, path)

    monkeypatch.setattr(records, "save", refuse)
    with refused(here, snapshot, *LIVING):
        ended = command(stage, "--force")
    assert ended.code == 2
    assert "the disk is full: runs/default" in ended.err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert command(stage).code in (0, 3)


def test_disk_that_fills_up_in_a_new_run_keeps_the_checkpoint(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.models import source

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(source, "save", refuse)
        ended = command("train", "--run", "runs/new", "--recipe", "toolkit.yaml")
    assert ended.code == 2
    assert "the rest resumes" in ended.err
    ended = command("train", "--run", "runs/new")
    assert ended.code == 0
    assert "step " in ended.err
    assert "train: 3/" not in ended.err, "no step is trained again"


def test_two_commands_in_one_run_folder(here: Path, command: Command, snapshot: Snapshot) -> None:
    with runfolder.opened(Path("runs/default")), refused(here, snapshot):
        ended = command("prune", "--force")
    assert ended.code == 2
    assert "another toolkit command is working in runs/default" in ended.err
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
