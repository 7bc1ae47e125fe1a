"""Weights that do not match, are damaged, or could execute code."""

from __future__ import annotations

import io
import json
import pickle
import struct
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save, save_file

Command = Callable[..., Any]
Unchanged = Callable[..., AbstractContextManager[None]]


def plain_weights() -> dict[str, torch.Tensor]:
    """Weights of a timm model for these classes, saved by another program."""
    args: dict[str, Any] = yaml.safe_load(Path("toolkit.yaml").read_text())["model"]["args"]
    model = timm.create_model("deit_tiny_patch16_224", num_classes=3, img_size=32, **args)
    return dict(model.state_dict())


def test_mismatched_tensors_are_named(here: Path, command: Command, unchanged: Unchanged) -> None:
    tensors = plain_weights()
    tensors["cls_token"] = torch.zeros(1, 1, 7)
    del tensors["norm.weight"]
    tensors["unexpected"] = torch.zeros(2)
    save_file(tensors, here / "bad.safetensors")
    with unchanged(here):
        ended = command("train", "--weights", "bad.safetensors")
    assert ended.code == 2
    for part in (
        "norm.weight is missing",
        "unexpected is not part of the model",
        "cls_token is [1, 1, 7], the model needs",
    ):
        assert part in ended.err
    assert "model.image_size" in ended.err


class Payload:
    """Unpickling it creates a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def torch_saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def damaged() -> bytes:
    return Path("runs/default/dense/model.safetensors").read_bytes()[:20_000]


def with_nan() -> bytes:
    tensors = plain_weights()
    tensors["blocks.1.norm2.bias"][0] = float("nan")
    return save(tensors)


def with_dtype(dtype: torch.dtype, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights whose matrices have another dtype."""
    return {name: x.to(dtype) if x.dim() == 2 else x for name, x in plain_weights().items()} | more


def in_float4() -> dict[str, torch.Tensor]:
    packed = torch.zeros(256, 32, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    return {**plain_weights(), "blocks.0.mlp.fc1.weight": packed}


def of_unsupported_dtype(name: str) -> bytes:
    """A safetensors file with a dtype that PyTorch does not support."""
    header = json.dumps({"blocks.0.mlp.fc1.weight": {"dtype": name, "shape": [4, 4], "data_offsets": [0, 12]}})
    return struct.pack("<Q", len(header)) + header.encode() + bytes(12)


SCALE = {"blocks.0.mlp.fc1.weight_scale": torch.tensor(2.0)}
BEIT = {"blocks.0.attn.q_bias": torch.zeros(64)}
FILES: dict[str, tuple[str, Callable[[], bytes], str, str]] = {
    "code": ("bad.pth", lambda: torch_saved({"model": Payload()}), "unpickling could execute code", "python -c"),
    "a pickle": ("bad.pth", lambda: pickle.dumps(Payload()), "loading it could execute code", "python -c"),
    "paths": (
        "bad.pth",
        lambda: torch_saved({"state_dict": plain_weights(), "args": Namespace(out=PurePosixPath("runs"))}),
        "PurePosixPath",
        "bad-clean.pth",
    ),
    "truncated": ("bad.safetensors", damaged, "bad.safetensors is truncated or damaged", "again"),
    "web page": ("bad.pth", lambda: b"<!doctype html><html></html>", "bad.pth is a web page", "download"),
    "git-lfs": ("bad.pth", lambda: b"version https://git-lfs.github.com/spec/v1\noid x", "git-lfs pointer", "pull"),
    "ONNX": ("bad.onnx", lambda: b"\x08\x08\x12\x07pytorch", "bad.onnx is an ONNX model", "exported from"),
    "empty": ("bad.pth", lambda: b"", "bad.pth is empty", "again"),
    "float4": (
        "bad.pth",
        lambda: torch_saved(in_float4()),
        "blocks.0.mlp.fc1.weight (float4_e2m1fn_x2)",
        "quantisation",
    ),
    "float4, safe": ("bad.safetensors", lambda: save(in_float4()), "(float4_e2m1fn_x2)", "quantisation"),
    "scales": (
        "bad.safetensors",
        lambda: save(with_dtype(torch.float8_e8m0fnu)),
        "(float8_e8m0fnu)",
        "quantisation",
    ),
    "scaled float8": (
        "bad.safetensors",
        lambda: save(with_dtype(torch.float8_e4m3fn, **SCALE)),
        "has float8 tensors with separate scales: blocks.0.mlp.fc1.weight_scale",
        "before quantisation",
    ),
    "float6": ("bad.safetensors", lambda: of_unsupported_dtype("F6_E2M3"), "dtype F6_E2M3, which PyTorch", "quant"),
    "float8 of others": ("bad.safetensors", lambda: of_unsupported_dtype("F8_E3M4"), "dtype F8_E3M4", "quant"),
    "a tensor": (
        "bad.pth",
        lambda: torch_saved(torch.zeros(3, 2)),
        "contains a single tensor of shape [3, 2]",
        "state_",
    ),
    "a list": (
        "bad.pth",
        lambda: torch_saved([plain_weights()]),
        "contains a list, not a dict of tensors",
        "state_dict()",
    ),
    "a number": ("bad.pth", lambda: torch_saved(5), "contains a number, not a dict of tensors", "state_dict()"),
    "nothing": ("bad.pth", lambda: torch_saved({}), "contains an empty dict, not a dict of tensors", "state_dict()"),
    "settings": ("bad.pth", lambda: torch_saved({"lr": 1}), "contains a dict of other values, not", "state_dict()"),
    "NaN": ("bad.safetensors", with_nan, "NaN or infinity, in blocks.1.norm2.bias", "earlier checkpoint"),
    "BEiT": ("bad.safetensors", lambda: save({**plain_weights(), **BEIT}), "the file is a BEiT", "--model beit"),
    "distilled": (
        "bad.safetensors",
        lambda: save({**plain_weights(), "dist_token": torch.zeros(1, 1, 64), "pos_embed": torch.zeros(1, 18, 64)}),
        "the file is a distilled DeiT (dist_token)",
        "--model deit_base_distilled_patch16_224",
    ),
    "two": (
        "bad.pth",
        lambda: torch_saved({"student": plain_weights(), "teacher": plain_weights()}),
        "bad.pth contains several networks: student, teacher",
        "--weights-key student",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_unsuitable_files_are_refused(
    same_here: Path,
    command: Command,
    unchanged: Unchanged,
    in_our_words: Callable[[Any], str],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    name, content, message, hint = FILES[case]
    monkeypatch.chdir(same_here)
    (same_here / name).write_bytes(content())
    with unchanged(same_here):
        ended = command("train", "--recipe", "toolkit.yaml", "--weights", name)
    assert message in in_our_words(ended)
    assert hint in ended.err
    assert not Path("executed").exists()


NO_FILES = {
    "https://huggingface.co/a/b/resolve/main/model.safetensors": "weights https://huggingface.co/a/b/resolve/main/model."
    "safetensors is a URL, but weights must be a local file",
    "s3://bucket/x.pth": "weights s3://bucket/x.pth is a URL",
    "hf-hub:timm/vit": "weights hf-hub:timm/vit is a URL",
    "~nobody-of-this-name/x.pth": "~nobody-of-this-name/x.pth does not exist: there is no such user",
    f"{'x' * 300}.pth": "xxx.pth cannot be read: File name too long",
    "/proc/self/mem": "/proc/self/mem cannot be read: Input/output error",
    "runs/default/dense": "runs/default/dense is a folder",
    "gone.pth": "weights file gone.pth is a broken link",
    "round.pth": "weights file round.pth is a broken link",
    "nothing.pth": "weights file nothing.pth does not exist",
    "/dev/null": "/dev/null is not a file",
}


@pytest.mark.parametrize("path", NO_FILES, ids=lambda path: path[-20:])
def test_paths_that_are_not_files_are_refused_before_images_are_read(
    same_here: Path,
    command: Command,
    unchanged: Unchanged,
    in_our_words: Callable[[Any], str],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    if path.startswith("/") and not Path(path).exists():
        pytest.skip("another system")
    monkeypatch.chdir(same_here)
    for name, target in (("gone.pth", "nowhere"), ("round.pth", "round.pth")):
        if not Path(name).is_symlink():
            Path(name).symlink_to(target)
    monkeypatch.setattr("toolkit.stages.Run.domains", property(lambda _: pytest.fail("images were read")))
    with unchanged(same_here):
        ended = command("train", "--recipe", "toolkit.yaml", "--weights", path, "--dry-run")
    assert NO_FILES[path] in in_our_words(ended)


FOREIGN = {"format": "layers-model", "generatedBy": "keras", "modelTopology": {}, "weightsManifest": []}
RECORDS: dict[str, tuple[str, str]] = {
    "TensorFlow.js": (json.dumps(FOREIGN), ""),
    "a list": ("[]", ""),
    "cut short": ("{", "model.json is not JSON from line 1, column 2 on"),
    "too deep": ("[" * 100_000, "model.json is not JSON of ours: it is nested too deeply"),
    "ours without the rest": ('{"layouts": []}', "model.json is not a ModelInfo: required field missing"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_only_our_own_model_json_is_read(
    same_here: Path,
    command: Command,
    in_our_words: Callable[[Any], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    case: str,
) -> None:
    content, message = RECORDS[case]
    monkeypatch.chdir(same_here)
    file, run = tmp_path / "model.safetensors", str(tmp_path / "run")
    save_file(plain_weights(), file)
    (tmp_path / "model.json").write_text(content)
    ended = command("train", "--recipe", "toolkit.yaml", "--run", run, "--weights", str(file), "--epochs", "0")
    if message:
        assert message in in_our_words(ended)
        assert len(ended.err.splitlines()) <= 2
    else:
        assert ended.code == 0, ended.err


def test_a_folder_as_weights(here: Path, command: Command, in_our_words: Callable[[Any], str]) -> None:
    ended = command("train", "--weights", "runs/default/dense")
    assert "runs/default/dense is a folder" in in_our_words(ended)
    assert "--weights runs/default/dense/model.safetensors" in ended.err
    (here / "MINE.SAFETENSORS").write_bytes(save(plain_weights()))
    assert command("train", "--weights", "MINE.SAFETENSORS", "--epochs", "0").code == 0


def test_weights_of_a_pruned_model(here: Path, command: Command, in_our_words: Callable[[Any], str]) -> None:
    ended = command("train", "--weights", "runs/default/finetuned/model.safetensors")
    assert "does not match deit_tiny_patch16_224" in in_our_words(ended)
    assert (
        "`toolkit inspect runs/default/finetuned` shows it; `toolkit train` cannot start from a pruned model"
        in ended.err
    )


def test_a_truncated_model_of_the_run(here: Path, command: Command, unchanged: Unchanged) -> None:
    file = here / "runs/default/dense/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with unchanged(here):
        ended = command("prune", "--force")
    assert ended.code == 2
    assert "dense/model.safetensors is truncated" in ended.err
    assert command("inspect", "runs/default/dense").code == 2
    assert command("train", "--force").code == 0
    assert command("prune", "--force").code == 0


def test_zero_epochs_with_a_classifier_for_other_classes(here: Path, command: Command, unchanged: Unchanged) -> None:
    tensors = plain_weights()
    tensors |= {"head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)}
    save_file(tensors, here / "five.safetensors")
    with unchanged(here):
        ended = command("train", "--weights", "five.safetensors", "--epochs", "0")
    assert ended.code == 2
    assert "not trained for these 3 classes: head.weight, head.bias would be random" in ended.err
    assert "--epochs" in ended.err
