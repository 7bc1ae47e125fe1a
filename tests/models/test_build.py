"""Models are built from timm's names; model folders round-trip exactly or are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from toolkit import hashing, recipe, records
from toolkit.errors import RecipeError, RecordError, StorageError, UnknownName, UnsupportedModel, WeightsError
from toolkit.models import store
from toolkit.models.build import build, outline
from toolkit.models.model import Model
from toolkit.models.timm_model import check_name, known_models
from toolkit.preprocessing import Preprocessing
from toolkit.records import ModelInfo, Setting

CLASSES = ("cat", "dog", "emu")
ARGS: dict[str, Setting] = {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
Build = Callable[..., Model]


def settings(
    args: dict[str, Setting] | None = None, name: str = "vit_tiny_patch16_224", weights: str = "none"
) -> recipe.Model:
    return recipe.Model(name=name, weights=weights, image_size=16, args={**ARGS, **(args or {})})


@pytest.fixture
def folder(uneven: Build, tmp_path: Path) -> Path:
    """A model folder with uneven heads."""
    model = uneven("beit_base_patch16_224")
    store.save(model, tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "model.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_built_model() -> None:
    model = build(settings(), CLASSES, seed=0)
    assert model.fresh == ()
    assert not model.module.training
    assert model.info.args == {**ARGS, "img_size": 16}
    assert model.info.image_size == 16
    assert model.info.classes == CLASSES
    timms = Preprocessing((0.5,) * 3, (0.5,) * 3, "bicubic", 1.0, "squash", "timm's vit_tiny_patch16_224")
    assert model.info.preprocessing == timms
    assert model.info.parameters == sum(parameter.numel() for parameter in model.module.parameters())
    assert model.module(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


def test_the_seed_determines_the_weights_and_keeps_the_global_rng() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (build(settings(), CLASSES, seed).module.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


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


def test_saving_is_deterministic(folder: Path, tmp_path: Path) -> None:
    loaded = store.load(folder)
    other = tmp_path / "again"
    other.mkdir()
    assert store.save(loaded, other).info == loaded.info


@pytest.mark.parametrize("name", ["vit_tiny_patch16_22", "beit_base_patch16_224.nosuch"])
def test_an_unknown_model_gets_a_suggestion(name: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown model .*\ndid you mean"):
        build(recipe.Model(name=name, weights="none"), CLASSES, seed=0)


@pytest.mark.parametrize(
    "name", ["vit_base_patch16_xp", "vit_base_patch16_siglip", "aimv2_1b_patch14_22", "beit3_base"]
)
def test_only_prunable_models_are_suggested(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        check_name(name)
    suggestions = caught.value.known
    assert 0 < len(suggestions) <= 3
    for model in suggestions:
        outline(recipe.Model(name=model), CLASSES)


def test_no_tags_are_suggested_for_an_unsupported_model() -> None:
    with pytest.raises(UnknownName) as caught:
        check_name("vit_base_patch16_siglip_224.nosuch")
    assert caught.value.hint == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "resnet18 is not a ViT, DeiT or BEiT"),
        ("swin_tiny_patch4_window7_224.ms_in1k", "swin_tiny_patch4_window7_224.ms_in1k is not a ViT, DeiT or BEiT"),
        ("no-such", "timm has no ViT, DeiT or BEiT called 'no-such'"),
    ],
)
def test_models_of_other_families(name: str, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"{message}, and only those can be pruned\\n") as caught:
        check_name(name)
    examples = [word for word in re.findall(r"\w+", caught.value.hint) if word in known_models()]
    assert len(examples) == 4
    for model in examples:
        outline(recipe.Model(name=model), CLASSES)


def test_known_models_are_vit_deit_and_beit() -> None:
    known = known_models()
    assert {"vit_base_patch16_224", "deit_tiny_distilled_patch16_224", "beitv2_base_patch16_224"} <= set(known)
    assert not any(name.startswith(("swin", "resnet")) for name in known)


@pytest.mark.parametrize(
    "args",
    [{"pos_embed": "x"}, {"act_layer": "nosuch"}, {"embed_layer": "nosuch"}],
    ids=str,
)
def test_arguments_that_timm_cannot_build(args: dict[str, Setting]) -> None:
    ((argument, value),) = args.items()
    with pytest.raises(RecipeError, match=f"timm cannot build vit_tiny_patch16_224 with {argument}={value!r}"):
        build(settings(args), CLASSES, seed=0)


@pytest.mark.parametrize(
    ("name", "argument", "closest"),
    [("vit_tiny_patch16_224", "heads", "num_heads"), ("beit_base_patch16_224", "init_value", "init_values")],
)
def test_an_unknown_argument_gets_a_suggestion(name: str, argument: str, closest: str) -> None:
    with pytest.raises(RecipeError, match=rf"{name} has no argument '{argument}'\ndid you mean {closest}"):
        build(settings({argument: 1}, name), CLASSES, seed=0)


def test_a_model_that_does_not_fit_into_memory() -> None:
    with pytest.raises(RecipeError, match=r"mlp_ratio=\S+ .*too large for this machine"):
        build(settings({"mlp_ratio": 1e12}), CLASSES, seed=0)


def hub(classes: int, error: Exception | None = None) -> Callable[..., torch.nn.Module]:
    """Replacement for `timm.create_model` whose hub weights are random, or whose download fails."""
    real = timm.create_model

    def create(name: str, pretrained: bool = False, **arguments: Any) -> torch.nn.Module:
        if pretrained and error is not None:
            raise error
        return real(name, pretrained=False, **arguments)

    return create


def test_a_failed_download_of_hub_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", hub(1000, OSError("no route to host")))
    with pytest.raises(WeightsError, match=r"could not be downloaded from \S+\n.*--weights") as caught:
        build(settings(weights="hub"), CLASSES, seed=0)
    assert "no route" not in caught.value.message
    assert "no route" in str(caught.value.__cause__)
    with pytest.raises(RecipeError, match="nope"):
        build(settings({"nope": 1}, weights="hub"), CLASSES, seed=0)


def test_a_model_without_weights_in_timm() -> None:
    with pytest.raises(WeightsError, match=r"timm has no weights for vit_base_patch32_plus_256\n.*--weights"):
        build(settings(name="vit_base_patch32_plus_256", weights="hub"), CLASSES, seed=0)


def fake_download(monkeypatch: pytest.MonkeyPatch, **args: Setting) -> None:
    """Make timm download weights of its default architecture, shrunk unless `args` say otherwise."""
    small = {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3, "img_size": 16, **args}
    state = timm.create_model("vit_tiny_patch16_224", **small).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state))


def test_hub_weights_of_other_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_download(monkeypatch, embed_dim=48)
    with pytest.raises(WeightsError, match=r"vit_tiny_patch16_224 do not match a model with .*embed_dim=24"):
        build(settings(weights="hub"), CLASSES, seed=0)


@pytest.mark.parametrize(
    ("args", "message"),
    [({"init_values": 0.1}, r"blocks\.0\.ls1\.gamma.* would be random"), ({"num_heads": 4}, "another number of heads")],
)
def test_hub_weights_that_leave_parameters_random_are_refused(
    args: dict[str, Setting], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_download(monkeypatch)
    with pytest.raises(WeightsError, match=message):
        build(settings(args, weights="hub"), CLASSES, seed=0)


def test_unused_hub_weights_are_reported(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    fake_download(monkeypatch)
    assert build(settings(weights="hub"), CLASSES, seed=0).fresh == ("head.weight", "head.bias")
    assert "blocks.2.norm1.weight" in caplog.text


def test_hub_weights_for_other_classes_keep_a_new_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", hub(1000))
    model = build(settings(name="deit_tiny_distilled_patch16_224", weights="hub"), CLASSES, seed=0)
    assert model.fresh == ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")
    thousand = tuple(f"class {number}" for number in range(1000))
    assert build(settings(name="deit_tiny_distilled_patch16_224", weights="hub"), thousand, seed=0).fresh == ()


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
    model = uneven()
    with pytest.raises(StorageError, match="cannot write"):
        store.save(model, tmp_path / "missing")
