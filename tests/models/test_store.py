"""Model folders round-trip exactly; damaged or mismatched ones are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit import hashing, records
from toolkit.errors import RecordError, StorageError, UnknownName, WeightsError
from toolkit.models import store
from toolkit.models.model import Model
from toolkit.records import ModelInfo

Build = Callable[..., Model]


@pytest.fixture
def folder(uneven: Build, tmp_path: Path) -> Path:
    """A model folder with uneven heads."""
    model = uneven("beit_base_patch16_224")
    model.save(tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "model.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_saved_model_loads_exactly(folder: Path, uneven: Build) -> None:
    loaded, model = store.load(folder), uneven("beit_base_patch16_224")
    saved = records.load(ModelInfo, folder / "model.json")
    assert loaded.info == saved
    assert saved == replace(
        model.info, parameters=saved.parameters, macs=saved.macs, weights_sha256=saved.weights_sha256
    )
    assert saved.weights_sha256 == hashing.sha256(folder / "model.safetensors")
    mine, theirs = model.module.state_dict(), loaded.module.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.module(images), loaded.module(images))
    assert not any(tensor.is_meta for tensor in (*loaded.module.parameters(), *loaded.module.buffers()))
    assert all(parameter.requires_grad for parameter in loaded.module.parameters())
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_layer_scales_of_older_folders_are_renamed(small: Build, tmp_path: Path) -> None:
    """BEiT's layer scales had the names gamma_1 and gamma_2."""
    model = small("beit_base_patch16_224", init_values=0.1).save(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {re.sub(r"ls([12])\.gamma$", r"gamma_\1", name): tensor for name, tensor in load_file(file).items()}
    assert "blocks.1.gamma_2" in tensors
    save_file(tensors, file)
    edit(tmp_path, lambda content: content.update(weights_sha256=hashing.sha256(file)))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(store.load(tmp_path).module(images), model.module(images))


def test_saving_is_deterministic(folder: Path, tmp_path: Path) -> None:
    loaded = store.load(folder)
    other = tmp_path / "again"
    other.mkdir()
    assert loaded.save(other).info == loaded.info


def test_a_truncated_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors is truncated"):
        store.load(folder)


def test_a_swapped_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(WeightsError, match="hash differs"):
        store.load(folder)


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
def test_a_missing_file(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises((RecordError, WeightsError), match=rf"{missing} does not exist"):
        store.load(folder)


def with_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace the tensors, and update their hash in `model.json`."""
    file = folder / "model.safetensors"
    save_file(tensors, file)
    edit(folder, lambda content: content.update(weights_sha256=hashing.sha256(file)))


def test_a_missing_and_an_unexpected_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["unexpected"] = tensors.pop("fc_norm.weight")
    with_tensors(folder, tensors)
    with pytest.raises(WeightsError, match=r"fc_norm\.weight, unexpected"):
        store.load(folder)


def test_a_tensor_with_another_number_of_dimensions(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["fc_norm.weight"] = tensors["fc_norm.weight"][None]
    with_tensors(folder, tensors)
    with pytest.raises(WeightsError, match=r"fc_norm\.weight has 2 dimensions"):
        store.load(folder)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], type[Exception], str]] = {
    "schema": (lambda content: content.update(schema=99), RecordError, "schema 99"),
    "unknown field": (lambda content: content.update(colour="red"), RecordError, "colour"),
    "name": (lambda content: content.update(name="vit_huge"), UnknownName, "unknown model 'vit_huge'"),
    "layout": (lambda content: content["layouts"][0]["heads"][0].__setitem__(0, 7), WeightsError, "qkv.weight"),
    "layouts": (lambda content: content["layouts"].pop(), WeightsError, "1 head layouts"),
    "blocks": (lambda content: content.update(removed_blocks=[5]), WeightsError, "removes blocks"),
}


@pytest.mark.parametrize(("change", "error", "message"), CHANGES.values(), ids=CHANGES)
def test_a_model_json_that_does_not_match(
    folder: Path, change: Callable[[dict[str, Any]], object], error: type[Exception], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(error, match=message):
        store.load(folder)


def test_a_folder_that_cannot_be_written(uneven: Build, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        uneven().save(tmp_path)
