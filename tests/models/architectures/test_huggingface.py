"""Folders that transformers writes: canonical, pruned, saved, loaded and exported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import toolkit
from toolkit import errors
from toolkit.models.surgery import remove
from toolkit.records import Cut

transformers = pytest.importorskip("transformers")

CLASSES = ("cat", "dog", "emu")
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
MLP = {"intermediate_size": 48}
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "vit": ("ViTForImageClassification", MLP),
    "vit-no-bias": ("ViTForImageClassification", {**MLP, "qkv_bias": False, "hidden_act": "quick_gelu"}),
    "deit": ("DeiTForImageClassification", MLP),
    "deit-teacher": ("DeiTForImageClassificationWithTeacher", MLP),
    "beit": ("BeitForImageClassification", {**MLP, "use_relative_position_bias": True}),
    "beit-shared": (
        "BeitForImageClassification",
        {**MLP, "use_shared_relative_position_bias": True, "use_mean_pooling": False},
    ),
    "beit-both": (
        "BeitForImageClassification",
        {
            **MLP,
            "use_relative_position_bias": True,
            "use_shared_relative_position_bias": True,
            "use_absolute_position_embeddings": True,
            "layer_scale_init_value": 0.0,
        },
    ),
    "dinov2": ("Dinov2ForImageClassification", {"mlp_ratio": 2}),
    "dinov2-swiglu": ("Dinov2ForImageClassification", {"mlp_ratio": 2, "use_swiglu_ffn": True}),
    "dinov2-registers": ("Dinov2WithRegistersForImageClassification", {"mlp_ratio": 2, "num_register_tokens": 2}),
}
"""Classes of transformers with arguments of their configs."""


@pytest.fixture(scope="module")
def source(randomised: Callable[[nn.Module], nn.Module]) -> Callable[[str], Any]:
    """`source(kind)`: one of KINDS with random parameters."""

    def build(kind: str) -> Any:
        name, fields = KINDS[kind]
        cls = getattr(transformers, name)
        labels = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
        return randomised(cls(cls.config_class(**SIZES, **fields, **labels))).eval()

    return build


@pytest.fixture(scope="module")
def folder(
    made_once: Callable[[str, Callable[[Path], None]], Path], source: Callable[[str], Any]
) -> Callable[[str], Path]:
    """`folder(kind)`: a folder with one of KINDS, read-only."""
    return lambda kind: made_once(f"huggingface-{kind}", source(kind).save_pretrained)


def _difference(source: Any, model: Any) -> float:
    """Maximum difference of logits, relative to the largest logit."""
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, actual = source(images).logits, model.module(images)
    return float((expected - actual).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_loaded_exactly_pruned_along_every_axis_saved_and_loaded(
    kind: str, folder: Callable[[str], Path], source: Callable[[str], Any], tmp_path: Path
) -> None:
    model = toolkit.load(folder(kind))
    assert model.info.classes == CLASSES
    assert not model.fresh
    assert _difference(source(kind), model) < 1e-6
    attention, mlp = "blocks.1.attn", "blocks.1.mlp"
    places = {"head": attention, "qk": attention, "v": attention, "mlp": mlp, "embed": "residual", "block": "blocks"}
    for axis, place in places.items():
        remove(model, [Cut(place, axis, (0,))])  # type: ignore[arg-type]
    slim = remove(
        model,
        [
            Cut("blocks.0.attn", "head", (1,)),
            *(Cut(place, axis, (0,)) for axis, place in places.items() if axis not in ("head", "block")),  # type: ignore[arg-type]
        ],
    ).model.save(tmp_path)
    loaded = toolkit.load(tmp_path)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded.module(images), slim.module(images))
    assert loaded.info.name == f"transformers.{KINDS[kind][0]}"


def test_the_data_decides_the_order_of_the_classes(folder: Callable[[str], Path]) -> None:
    images, names = torch.randn(1, 3, 32, 32), ("emu", "cat", "dog")
    own, reordered = (toolkit.load(folder("dinov2"), classes) for classes in (CLASSES, names))
    logits = own.module(images)[:, [CLASSES.index(name) for name in names]]
    assert torch.allclose(reordered.module(images), logits, atol=1e-6)
    assert reordered.info.classes == names


def test_other_classes_get_a_classifier_of_their_own(folder: Callable[[str], Path]) -> None:
    model = toolkit.load(folder("dinov2"), ["one", "two"])
    assert model.fresh == ("head.weight", "head.bias", "head_mean.weight")
    assert model.module(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    assert toolkit.load(folder("deit-teacher"), ["one"] * 2, seed=1).fresh[-1] == "head_dist.bias"


def test_shards_half_precision_and_a_pickle_are_read(source: Callable[[str], Any], tmp_path: Path) -> None:
    shards, pickled = tmp_path / "shards", tmp_path / "pickled"
    source("vit").bfloat16().save_pretrained(shards, max_shard_size="20KB")
    assert len([*shards.glob("*.safetensors")]) > 1
    assert _difference(source("vit").bfloat16().float(), toolkit.load(shards)) < 1e-6
    pickled.mkdir()
    source("vit").config.save_pretrained(pickled)
    config = json.loads((pickled / "config.json").read_text())
    (pickled / "config.json").write_text(json.dumps({**config, "architectures": ["ViTForImageClassification"]}))
    torch.save(source("vit").state_dict(), pickled / "pytorch_model.bin")
    assert _difference(source("vit"), toolkit.load(pickled)) < 1e-6


def test_a_pretrained_model_without_classifier_gets_one(source: Callable[[str], Any], tmp_path: Path) -> None:
    source("deit").deit.save_pretrained(tmp_path)
    model = toolkit.load(tmp_path, CLASSES)
    assert model.info.name == "transformers.DeiTForImageClassification"
    assert model.fresh == ("head.weight", "head.bias")


@pytest.mark.parametrize("kind", ["beit-both", "dinov2-registers"])
def test_another_image_size_resamples_positions(kind: str, folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = toolkit.load(folder(kind), image_size=48).save(tmp_path)
    images = torch.randn(1, 3, 48, 48)
    assert torch.equal(toolkit.load(tmp_path).module(images), model.module(images))


def test_positions_are_resampled_as_in_transformers(
    folder: Callable[[str], Path], source: Callable[[str], Any]
) -> None:
    model = toolkit.load(folder("dinov2"), image_size=48)
    images = torch.randn(1, 3, 48, 48)
    with torch.inference_mode():
        expected = source("dinov2")(images).logits
        assert torch.allclose(model.module(images), expected, atol=1e-5 * float(expected.abs().max()))


def test_preprocessing_is_that_of_the_folder_or_of_the_kind(source: Callable[[str], Any], tmp_path: Path) -> None:
    source("vit").save_pretrained(tmp_path)
    assert toolkit.load(tmp_path).info.preprocessing.mean == (0.5, 0.5, 0.5)
    config = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 3}
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.2] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**config, **statistics}))
    preprocessing = toolkit.load(tmp_path).info.preprocessing
    assert (preprocessing.mean, preprocessing.interpolation) == ((0.1, 0.2, 0.3), "bicubic")
    assert preprocessing.origin.endswith("preprocessor_config.json")


def _vit(folder: Path, **changes: object) -> None:
    """A small ViT whose config has these changes; None removes a field."""
    transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, **MLP)).save_pretrained(folder)
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def _without_weights(folder: Path) -> None:
    _vit(folder)
    (folder / "model.safetensors").unlink()


def _of_another_task(folder: Path) -> None:
    transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**SIZES, **MLP, encoder_stride=8)).save_pretrained(
        folder
    )


def _bert(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"architectures": ["BertForSequenceClassification"], "model_type": "bert"}')


def _damaged_config(folder: Path) -> None:
    _vit(folder)
    (folder / "config.json").write_text('{"architectures": [')


def _of_another_model(folder: Path) -> None:
    _vit(folder, num_hidden_layers=3)


def _damaged_weights(folder: Path) -> None:
    _vit(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")


def _unsafe_pickle(folder: Path) -> None:
    _without_weights(folder)
    torch.save(transformers.ViTConfig(), folder / "pytorch_model.bin")


def _shard_missing(folder: Path) -> None:
    _without_weights(folder)
    index = {"weight_map": {"classifier.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "without weights": (_without_weights, "contains no weights"),
    "another task": (_of_another_task, "is a ViTForMaskedImageModeling, which cannot be pruned"),
    "bert": (_bert, "is a BertForSequenceClassification, which cannot be pruned"),
    "no class": (lambda folder: _vit(folder, architectures=None), "names no class of transformers"),
    "damaged config": (_damaged_config, "config.json"),
    "invalid config": (lambda folder: _vit(folder, hidden_act="unknown"), "ViTForImageClassification"),
    "invalid field": (lambda folder: _vit(folder, hidden_size="wide"), "config of this ViTForImageClassification is"),
    "labels": (lambda folder: _vit(folder, id2label={"5": "cat"}), "id2label"),
    "not square": (lambda folder: _vit(folder, image_size=[32, 64]), "image_size = [32, 64]"),
    "grey": (lambda folder: _vit(folder, num_channels=1), "does not match"),
    "another model": (_of_another_model, "layers.2"),
    "damaged weights": (_damaged_weights, "model.safetensors is"),
    "unsafe pickle": (_unsafe_pickle, "cannot be read as plain tensors"),
    "shard missing": (_shard_missing, "lacks model-00001-of-00002.safetensors"),
    "no folder": (lambda folder: None, "is not a model folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_refused_with_a_message(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    make(tmp_path / "model")
    with pytest.raises(errors.BadInput) as raised:
        toolkit.load(tmp_path / "model")
    assert message in raised.value.message
    assert raised.value.hint
    assert raised.value.exit_code == 2


def test_the_command_line_refuses_a_bad_folder_before_training(command: Callable[..., Any], tmp_path: Path) -> None:
    _of_another_task(tmp_path / "model")
    ended = command("train", "--model", tmp_path / "model", "--run", tmp_path / "run")
    assert ended.code == 2
    assert "ViTForMaskedImageModeling" in ended.err


def test_without_transformers_the_package_is_named(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = folder("vit")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(errors.MissingDependency, match="transformers") as raised:
        toolkit.load(vit)
    assert raised.value.exit_code == 5
    assert "vit-toolkit[huggingface]" in raised.value.hint


def test_a_timm_model_needs_no_transformers(monkeypatch: pytest.MonkeyPatch, small: Callable[..., Any]) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert small().info.name == "vit_tiny_patch16_224"


def test_a_model_folder_cannot_name_another_part_of_transformers(folder: Callable[[str], Path], tmp_path: Path) -> None:
    toolkit.load(folder("vit")).save(tmp_path)
    record = tmp_path / "model.json"
    record.write_text(record.read_text().replace("transformers.ViTForImageClassification", "transformers.pipeline"))
    with pytest.raises(errors.UnsupportedModel, match=r"transformers\.pipeline is no supported class"):
        toolkit.load(tmp_path)
