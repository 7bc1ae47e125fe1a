"""Weights files are read by content, or refused by format; nothing in them is executed."""

from __future__ import annotations

import argparse
import gzip
import io
import pathlib
import pickle
import re
import runpy
import shlex
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from toolkit.errors import WeightsError
from toolkit.models.weight_file import read

STATE = {"norm.weight": torch.arange(4.0), "blocks.0.norm1.bias": torch.ones(3)}


def same(tensors: dict[str, Tensor], prefix: str = "") -> bool:
    return all(torch.equal(tensors[f"{prefix}{name}"], tensor) for name, tensor in STATE.items())


@pytest.mark.parametrize("name", ["a.safetensors", "A.SAFETENSORS", "a.pth", "weights", "a.json"])
def test_the_content_determines_the_format(name: str, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / name)
    assert same(read(tmp_path / name))
    for new in (True, False):
        torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=new)
        assert same(read(tmp_path / name))


@pytest.mark.parametrize("new", [True, False])
def test_a_training_checkpoint_of_timm(new: bool, tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    args = argparse.Namespace(lr=0.1, model="deit_tiny_patch16_224")
    content = {"epoch": 3, "state_dict": STATE, "state_dict_ema": STATE, "optimizer": optimizer, "args": args}
    torch.save(content, tmp_path / "last.pth.tar", _use_new_zipfile_serialization=new)
    before = {*torch.serialization.get_safe_globals()}  # in arbitrary order
    tensors = read(tmp_path / "last.pth.tar")
    assert same(tensors, "state_dict/")
    assert same(tensors, "state_dict_ema/")
    assert "optimizer/state/0/exp_avg" in tensors
    assert {*torch.serialization.get_safe_globals()} == before, "no class stays registered as safe"


def test_tensors_saved_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", lambda _: "cuda:0")
        torch.save(STATE, tmp_path / "weights.pth")
    assert b"cuda:0" in (tmp_path / "weights.pth").read_bytes()
    assert same(read(tmp_path / "weights.pth"))


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.file,)


def run(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run a hint's `python -c ...` command in this process."""
    python, flag, program, *words = shlex.split(command)
    assert (python, flag) == ("python", "-c")
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(sys, "argv", ["-c", *words])
    runpy.run_path(str(tmp_path / "program.py"))


def hinted(error: WeightsError) -> str:
    return error.hint[error.hint.index("python -c") :]


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_executed(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, executed = tmp_path / "best.pth", tmp_path / "executed"
    content = {"model": STATE, "extra": Trap(executed), "out": pathlib.PurePosixPath("runs")}
    if how == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(WeightsError, match=r"could execute code\nif you trust") as caught:
        read(file)
    assert not executed.exists()
    if how == "torch":
        assert re.search(r"it also contains .*pathlib\S*PurePosixPath", caught.value.message)
    run(hinted(caught.value), monkeypatch, tmp_path)
    assert executed.exists(), "the suggested command executes it, as the hint warns"
    assert same(read(tmp_path / "best-clean.pth"), "model/")


def test_a_pickled_module_can_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": nn.LayerNorm(4), "epoch": 3}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"it also contains .*LayerNorm") as caught:
        read(tmp_path / "model.pt")
    run(hinted(caught.value), monkeypatch, tmp_path)
    assert set(read(tmp_path / "model-clean.pth")) == {"model/weight", "model/bias"}


@pytest.mark.parametrize("size", [1, 100, 5000])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_truncated_file(name: str, size: int, tmp_path: Path) -> None:
    large, file = {"norm.weight": torch.randn(5000)}, tmp_path / name
    save_file(large, file) if file.suffix == ".safetensors" else torch.save(large, file)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(WeightsError, match=rf"{name} is (truncated or damaged|neither)"):
        read(file)


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{"embedding/kernel": np.ones(2)})
    return buffer.getvalue()


OTHERS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "ONNX": ("model.onnx", lambda: b"\x08\x08\x12\x07pytorch\x1a", "an ONNX model"),
    "web page": ("weights.pth", lambda: b"\n<!DOCTYPE html><html>", "a web page"),
    "git-lfs": ("a.safetensors", lambda: b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
    "empty": ("weights.pth", lambda: b"", "empty"),
    "gzip": ("weights.pth.gz", lambda: gzip.compress(b"weights"), "compressed with gzip"),
    "tar": ("weights.tar", tarred, "a tar archive"),
    "zip": ("weights.zip", lambda: zipped(readme=b"hello"), "a zip archive without PyTorch weights"),
    "NumPy": ("ViT-B_16.npz", arrays, "a NumPy archive"),
    "Keras": ("weights.h5", lambda: b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "JSON": ("config.json", lambda: b"{}", "JSON, not weights"),
    "anything": ("notes.txt", lambda: b"these are no weights", "neither safetensors nor"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_formats_are_named(case: str, tmp_path: Path) -> None:
    name, content, description = OTHERS[case]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(WeightsError, match=f"{name} is {description}") as caught:
        read(tmp_path / name)
    assert caught.value.hint


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_programs_are_named_and_can_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(2, 2)
    torch.jit.save(torch.jit.script(layer), str(tmp_path / "script.pt"))
    torch.export.save(torch.export.export(layer, (torch.ones(1, 2),)), str(tmp_path / "export.pt2"))
    for file, description in (("script.pt", "TorchScript"), ("export.pt2", "torch.export")):
        with pytest.raises(WeightsError, match=f"{file} is a {description} program") as caught:
            read(tmp_path / file)
        run(hinted(caught.value), monkeypatch, tmp_path)
        assert torch.equal(read(tmp_path / f"{file.partition('.')[0]}-clean.pth")["weight"], layer.weight)


def test_shards_can_be_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, (tensor, value) in zip(names, STATE.items(), strict=True):
        save_file({tensor: value}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {}}')
    for path in (index, tmp_path / names[0], tmp_path):
        with pytest.raises(WeightsError, match="join them: python") as caught:
            read(path)
    run(hinted(caught.value), monkeypatch, tmp_path)
    assert same(read(tmp_path / "joined.safetensors"))
    save_file(STATE, tmp_path / "model-00001-of-00001.safetensors")
    assert same(read(tmp_path / "model-00001-of-00001.safetensors"))


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder\nuse a safetensors file"):
        read(tmp_path)
    save_file(STATE, tmp_path / "my model.safetensors")
    with pytest.raises(WeightsError, match=r"is a folder\nuse the file in it: --weights '.*/my model.safetensors'"):
        read(tmp_path)
    torch.save(STATE, tmp_path / "other.bin")
    with pytest.raises(WeightsError, match=r"use one of its files: my model\.safetensors, other\.bin"):
        read(tmp_path)


def test_a_missing_or_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"does not exist\n"):
        read(tmp_path / "nothing.safetensors")
    save_file(STATE, tmp_path / "secret.safetensors")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WeightsError, match=r"secret\.safetensors cannot be read: Permission denied"):
        read(tmp_path / "secret.safetensors")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"weights": [torch.ones(1)]}])
def test_a_file_without_named_tensors(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="not a dict of tensors"):
        read(tmp_path / "weights.pth")
