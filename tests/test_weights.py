"""Weights that other programs saved, used for training and unchanged."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file

Command = Callable[..., Any]


def plain_weights() -> dict[str, torch.Tensor]:
    """Weights of timm's model for the classes of the run."""
    settings = yaml.safe_load(Path("toolkit.yaml").read_text())["model"]
    return dict(timm.create_model(settings["name"], num_classes=3, img_size=32, **settings["args"]).state_dict())


def test_a_training_checkpoint_is_read_and_its_average_is_reported(
    here: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    weights = plain_weights()
    average = {f"module.{name}": value + 1 for name, value in weights.items()}
    content = {"epoch": 3, "state_dict": weights, "state_dict_ema": average, "args": Namespace(lr=0.1)}
    torch.save(content, here / "last.pth.tar")
    loaded = []
    for words in ([], ["--weights-key", "state_dict_ema"]):
        assert command("train", "--weights", "last.pth.tar", "--epochs", "0", *words).code == 0
        loaded.append(load_file(here / "runs/default/dense/model.safetensors")["cls_token"])
    assert torch.equal(loaded[0], weights["cls_token"])
    assert torch.equal(loaded[1], weights["cls_token"] + 1)
    assert "the file also contains state_dict_ema (use --weights-key state_dict_ema)" in caplog.text


def test_a_prefix_is_reported(here: Path, command: Command, caplog: pytest.LogCaptureFixture) -> None:
    save_file({f"_orig_mod.module.{name}": value for name, value in plain_weights().items()}, here / "a.safetensors")
    assert command("train", "--weights", "a.safetensors", "--epochs", "0").code == 0
    assert "tensors with the prefix '_orig_mod.module'" in caplog.text
    assert caplog.records[-1].levelname == "WARNING", "shown without --verbose"


def test_zero_epochs_keeps_the_weights(here: Path, command: Command) -> None:
    tensors = plain_weights()
    save_file(tensors, here / "mine.safetensors")
    assert command("train", "--weights", "mine.safetensors", "--epochs", "0").code == 0
    after = load_file(here / "runs/default/dense/model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in tensors.items() if name in after)
    assert torch.equal(after["head.weight"], tensors["head.weight"])


def test_results_stay_valid_when_the_weights_file_is_deleted(here: Path, command: Command) -> None:
    save_file(plain_weights(), here / "mine.safetensors")
    assert command("train", "--weights", "mine.safetensors", "--epochs", "0").code == 0
    (here / "mine.safetensors").unlink()
    assert command("prune").made == ["pruned"]
    ended = command("prune", "--weights", "other.safetensors")
    assert ended.code == 2
    assert "weights file other.safetensors does not exist" in ended.err


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz]
)
@pytest.mark.parametrize("name", ["eighth.pth", "eighth.safetensors"])
def test_plain_float8_is_converted_exactly(here: Path, command: Command, dtype: torch.dtype, name: str) -> None:
    tensors = {name: value.to(dtype) if value.dim() == 2 else value for name, value in plain_weights().items()}
    if name.endswith(".pth"):
        torch.save(tensors, here / name)
    else:
        save_file(tensors, here / name)
    assert command("train", "--weights", name, "--epochs", "0").code == 0
    loaded = load_file(here / "runs/default/dense/model.safetensors")
    assert loaded["blocks.0.mlp.fc1.weight"].dtype == torch.float32
    assert torch.equal(loaded["blocks.0.mlp.fc1.weight"], tensors["blocks.0.mlp.fc1.weight"].float())
