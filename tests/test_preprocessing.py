"""Preprocessing on the command line: messages, `inspect`, and results that are rebuilt when it changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from safetensors.torch import save_file

from toolkit import records
from toolkit.preprocessing import Preprocessing
from toolkit.records import ModelInfo

Command = Callable[..., Any]
RUN = Path("runs/default")
DENSE = RUN / "dense"
HUGGING_FACE = {
    "image_processor_type": "DeiTImageProcessor", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
    "resample": 2, "size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": 224,
}  # fmt: skip


@pytest.fixture
def weights(here: Path) -> Path:
    """Weights of another author for the model of toolkit.yaml."""
    args: dict[str, Any] = yaml.safe_load((here / "toolkit.yaml").read_text())["model"]["args"]
    model = timm.create_model("deit_tiny_patch16_224", num_classes=3, img_size=32, **args)
    (here / "mine").mkdir()
    save_file(model.state_dict(), here / "mine" / "weights.safetensors")
    return Path("mine/weights.safetensors")


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [
        (Preprocessing((0.5,) * 3, (0.25,) * 3, "bicubic", 1.0, "squash", "timm"), "bicubic, squash (from timm)"),
        (Preprocessing((0.5,) * 3, (0.25,) * 3, "box", 0.875, "squash", "x"), "box, squash crop 0.875 (from x)"),
        (Preprocessing((0.5,) * 3, (0.25,) * 3, "box", 1.0, "center", "x"), "box, center crop 1 (from x)"),
    ],
)
def test_text_form(preprocessing: Preprocessing, message: str) -> None:
    assert str(preprocessing) == f"mean 0.5 0.5 0.5, std 0.25 0.25 0.25, {message}"


def test_a_file_next_to_the_weights_is_used_shown_and_tracked(
    here: Path, command: Command, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    config = here / "mine" / "preprocessor_config.json"
    config.write_text(json.dumps(HUGGING_FACE))
    train = ("train", "--weights", str(weights), "--epochs", "0")
    words = "mean 0.1 0.2 0.3, std 0.4 0.5 0.6, bilinear, squash crop 0.875 (from mine/preprocessor_config.json)"
    ended = command(*train)
    assert ended.code == 0, ended.err
    assert ended.err.count(f"train: images: {words}\n") == 1
    preprocessing = records.load(ModelInfo, DENSE / "model.json").preprocessing
    assert str(preprocessing) == words
    assert f"images: {words}" in command("inspect", DENSE).err
    assert json.loads(command("inspect", DENSE, "--json").out)["preprocessing"]["crop"] == 0.875

    assert command(*train).made == []
    config.write_text(json.dumps({**HUGGING_FACE, "resample": 3}))
    ended = command(*train)
    assert "making dense (changed: preprocessing)" in ended.err
    assert records.load(ModelInfo, DENSE / "model.json").preprocessing.interpolation == "bicubic"
    ended = command("train", "--crop", "0.9")
    assert "making dense (changed: model)" in ended.err
    assert "bicubic, center crop 0.9 (from model.crop; else mine/preprocessor_config.json)" in ended.err

    weights.unlink()
    config.unlink()
    assert command("train").made == [], "results stay valid when the files are deleted"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("dense", "prune: pruned: changed: images"),
        ("pruned", "finetune: finetuned: changed: images"),
        ("finetuned", "export: artifacts/onnx-fp32: changed: images"),
    ],
)
def test_a_change_of_preprocessing_alone_rebuilds_later_results(
    here: Path, command: Command, result: str, message: str
) -> None:
    file = here / RUN / result / "model.json"
    info = records.load(ModelInfo, file)
    records.save(replace(info, preprocessing=replace(info.preprocessing, origin="another file")), file)
    assert "changed" not in command("parity", "--dry-run").err
    records.save(replace(info, preprocessing=replace(info.preprocessing, crop=0.5)), file)
    assert message in command("parity", "--dry-run").err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{",
            "error: cannot read the preprocessing: mine/preprocessor_config.json is not JSON from line 1, column 2 on",
        ),
        (
            json.dumps({**HUGGING_FACE, "do_rescale": True, "image_mean": [123.7] * 3}),
            "from mine/preprocessor_config.json: mean = [123.7, 123.7, 123.7]: 123.7 is",
        ),
        (
            json.dumps({**HUGGING_FACE, "do_pad": True}),
            "mine/preprocessor_config.json: 'do_pad' = True is not supported",
        ),
    ],
)
def test_an_invalid_file_ends_the_command_before_any_result(
    here: Path, command: Command, weights: Path, text: str, message: str
) -> None:
    (here / "mine" / "preprocessor_config.json").write_text(text)
    ended = command("train", "--weights", weights)
    assert (ended.code, ended.made) == (2, [])
    assert message in " ".join(ended.err.split())
    assert "model.mean, model.std, model.interpolation and model.crop" in ended.err
    fixed = ("--mean", "0.5", "--std", "0.5", "--interpolation", "bicubic", "--crop", "0.9")
    assert command("train", "--weights", weights, "--epochs", "0", *fixed).code == 0
