"""Weights that cannot be taken, or must not be."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file

Command = Callable[..., Any]
Unchanged = Callable[..., AbstractContextManager[None]]


def plain_weights() -> dict[str, torch.Tensor]:
    """A timm model for these classes, as somebody else has saved it."""
    args: dict[str, Any] = yaml.safe_load(Path("toolkit.yaml").read_text())["model"]["args"]
    model = timm.create_model("deit_tiny_patch16_224", num_classes=3, img_size=32, **args)
    return dict(model.state_dict())


def test_weights_that_do_not_fit_are_named(here: Path, command: Command, unchanged: Unchanged) -> None:
    tensors = plain_weights()
    tensors["cls_token"] = torch.zeros(1, 1, 7)
    del tensors["norm.weight"]
    tensors["surplus"] = torch.zeros(2)
    save_file(tensors, here / "bad.safetensors")
    with unchanged(here):
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
    here: Path, command: Command, unchanged: Unchanged, how: str
) -> None:
    file = here / "bad.pth"
    if how == "pickle":
        file.write_bytes(pickle.dumps(Payload()))
    else:
        torch.save({"model": Payload()}, file)
    with unchanged(here):
        ended = command("train", "--weights", "bad.pth")
    assert ended.code == 2
    assert "bad.pth cannot be read as plain tensors" in ended.err
    assert "unpickling could run code" in ended.err
    assert not (here / "executed").exists()


def test_weights_file_that_is_truncated(here: Path, command: Command, unchanged: Unchanged) -> None:
    whole = (here / "runs/default/dense/model.safetensors").read_bytes()
    (here / "bad.safetensors").write_bytes(whole[: len(whole) // 2])
    with unchanged(here):
        ended = command("train", "--weights", "bad.safetensors")
    assert ended.code == 2
    assert "bad.safetensors is truncated or not a safetensors file" in ended.err


def test_model_of_the_run_that_is_truncated(here: Path, command: Command, unchanged: Unchanged) -> None:
    file = here / "runs/default/dense/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with unchanged(here):
        ended = command("prune", "--force")
    assert ended.code == 2
    assert "dense/model.safetensors is truncated" in ended.err
    assert command("inspect", "runs/default/dense").code == 2
    assert command("train", "--force").code == 0
    assert command("prune", "--force").code == 0


def test_no_epochs_and_a_head_for_other_classes(here: Path, command: Command, unchanged: Unchanged) -> None:
    tensors = plain_weights()
    tensors |= {"head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)}
    save_file(tensors, here / "five.safetensors")
    with unchanged(here):
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


def test_weights_that_are_gone_leave_what_was_made_from_them(here: Path, command: Command) -> None:
    save_file(plain_weights(), here / "mine.safetensors")
    assert command("train", "--weights", "mine.safetensors", "--epochs", "0").code == 0
    (here / "mine.safetensors").unlink()
    assert command("prune").made == ["pruned"]
    ended = command("prune", "--weights", "other.safetensors")
    assert ended.code == 2
    assert "weights file other.safetensors does not exist" in ended.err
