"""Modules of a user's own function, and modules themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from torch import nn

import toolkit
from toolkit import errors
from toolkit.models import factories

CLASSES = ("cat", "dog", "emu")
SOURCE = """
import timm
from torch import nn

calls = []
not_a_function = 3

def vit(classes):
    calls.append(classes)
    sizes = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=classes, act_layer=nn.ReLU, **sizes)

def fails(classes):
    raise RuntimeError("no such weights")

def no_module(classes):
    return "vit"

def no_attention(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))

def resnet(classes):
    return timm.create_model("test_resnet", num_classes=classes)

def other_outputs(classes):
    return vit(7)
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with `own_models.py`; no factory was named before."""
    (tmp_path / "own_models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(factories.NAMED, "")
    yield tmp_path
    sys.modules.pop("own_models", None)


def _own_models() -> ModuleType | None:
    return sys.modules.get("own_models")


def test_a_factory_is_called_with_the_number_of_classes_and_named_in_the_record(models: Path) -> None:
    model = toolkit.load("own_models:vit", CLASSES)
    assert set(_own_models().calls) == {3}  # type: ignore[union-attr]
    assert (model.info.name, model.info.args, model.info.image_size) == ("own_models:vit", {}, 32)
    slim = toolkit.prune(model, budget="macs=0.5", criterion="magnitude-l2").save(models / "slim")
    loaded = toolkit.load(models / "slim")  # named before, in this process
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.module(images), slim.module(images))


def test_a_model_folder_alone_imports_and_calls_nothing(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toolkit.load("own_models:vit", CLASSES).save(models / "dense")
    monkeypatch.setenv(factories.NAMED, "")
    del sys.modules["own_models"]
    with pytest.raises(errors.UnsupportedModel, match="built by the factory own_models:vit") as raised:
        toolkit.load(models / "dense")
    assert "--model own_models:vit" in raised.value.hint
    assert _own_models() is None
    with pytest.raises(errors.UnsupportedModel):
        toolkit.load(models / "dense", factory="own_models:fails")
    assert toolkit.load(models / "dense", factory="own_models:vit").info.classes == CLASSES


def test_an_installed_package_may_offer_a_factory(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toolkit.load("own_models:vit", CLASSES).save(models / "dense")
    monkeypatch.setenv(factories.NAMED, "")
    point = EntryPoint("own", "own_models:vit", factories.ENTRY_POINTS)
    monkeypatch.setattr(factories.metadata, "entry_points", lambda group: [point] if group == point.group else [])
    assert toolkit.load(models / "dense").info.name == "own_models:vit"


def test_another_image_size_is_kept(models: Path) -> None:
    model = toolkit.load("own_models:vit", CLASSES, image_size=48).save(models / "dense")
    images = torch.randn(1, 3, 48, 48)
    assert torch.equal(toolkit.load(models / "dense").module(images), model.module(images))


BAD = {
    "no_such_package:vit": "cannot be imported: ModuleNotFoundError",
    "own_models:missing": "cannot be imported: AttributeError",
    "own_models:not_a_function": "is a int, not a function",
    "own_models:fails": "failed: RuntimeError: no such weights",
    "own_models:no_module": "returned a str, not a module",
    "own_models:no_attention": "is a Sequential, whose attention is unknown",
    "own_models:resnet": "is a ResNet, whose attention is unknown",
    "own_models:other_outputs": "has a classifier for 7 classes, not for 3",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_factory_is_refused_with_a_message(name: str, models: Path) -> None:
    with pytest.raises(errors.BadInput) as raised:
        toolkit.load(name, CLASSES)
    assert BAD[name] in raised.value.message
    assert raised.value.hint
    assert raised.value.exit_code == 2


def test_the_command_line_refuses_a_bad_factory(models: Path, command: Callable[..., Any]) -> None:
    ended = command("train", "--model", "own_models:no_attention", "--run", "run")
    assert ended.code == 2
    assert "own_models:no_attention is a Sequential" in ended.err


def _vit(**more: object) -> nn.Module:
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, **more}
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, **sizes).eval()


def test_a_timm_module_keeps_its_outputs(tmp_path: Path) -> None:
    module, images = _vit(mlp_ratio=2.0), torch.randn(2, 3, 32, 32)
    expected = module(images).detach()
    model = toolkit.load(module, CLASSES).save(tmp_path)
    assert torch.allclose(model.module(images), expected, atol=1e-6)
    assert torch.equal(toolkit.load(tmp_path).module(images), model.module(images))


def test_a_transformers_module_keeps_its_outputs(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    source = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**sizes, num_labels=3)).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = source(images).logits.detach()
    model = toolkit.load(source, CLASSES).save(tmp_path)
    assert torch.allclose(model.module(images), expected, atol=1e-6)
    assert model.info.name == "transformers.Dinov2ForImageClassification"
    assert torch.equal(toolkit.load(tmp_path).module(images), model.module(images))


def test_a_module_that_no_folder_could_describe_needs_a_factory() -> None:
    with pytest.raises(errors.UnsupportedModel, match="cannot describe it") as raised:
        toolkit.load(_vit(act_layer=nn.ReLU), CLASSES)
    assert "package.module:function" in raised.value.hint


def test_a_module_without_known_attention_is_refused() -> None:
    with pytest.raises(errors.UnsupportedModel, match="the module is a Linear, whose attention is unknown"):
        toolkit.load(nn.Linear(3, 3), CLASSES)
