"""Preprocessing from settings, a file next to the weights, or timm; and equality with timm's transforms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from PIL import Image as Pillow
from timm.data import ImageNetInfo
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from timm.models import get_pretrained_cfg, save_for_hf

from toolkit import recipe, records
from toolkit.dg.batches import evaluation_batches
from toolkit.dg.image import Image
from toolkit.dg.transforms import evaluation_transform
from toolkit.errors import RecordError, WeightsError
from toolkit.models import store
from toolkit.models.build import build
from toolkit.models.preprocessing import adjacent_file, preprocessing_of
from toolkit.preprocessing import Preprocessing
from toolkit.records import ModelInfo

NAME = "deit_tiny_patch16_224"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TIMM = {"interpolation": "bilinear", "crop_pct": 0.875, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
EXPECTED = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 0.875, "center", "")


def settings(folder: Path, files: Mapping[str, object], **more: Any) -> recipe.Model:
    """Settings of a model with weights in this folder, next to these files."""
    for name, content in files.items():
        (folder / name).write_text(yaml.safe_dump(content) if name.endswith("yaml") else json.dumps(content))
    (folder / "model.safetensors").touch()
    return recipe.Model.model_validate({"name": NAME, "weights": str(folder / "model.safetensors"), **more})


def without_origin(preprocessing: Preprocessing) -> Preprocessing:
    return replace(preprocessing, origin="")


def test_without_a_file_timms_defaults_apply_to_the_whole_image(tmp_path: Path) -> None:
    whole = Preprocessing(*IMAGENET, "bicubic", 1.0, "squash", f"timm's {NAME}")
    assert preprocessing_of(recipe.Model(name=NAME)) == whole
    assert preprocessing_of(settings(tmp_path, {"config.json": {"architectures": ["ViTModel"]}})) == whole
    assert preprocessing_of(settings(tmp_path, {"args.yaml": {"model": "yolo11n-cls"}})) == whole
    mean = "mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    assert str(whole) == f"{mean}, bicubic, squash (from timm's {NAME})"


@pytest.mark.parametrize("content", [{"architecture": NAME, "pretrained_cfg": TIMM}, {"architecture": NAME, **TIMM}])
def test_timms_config_json(tmp_path: Path, content: object) -> None:
    result = preprocessing_of(settings(tmp_path, {"config.json": content}))
    assert result == replace(EXPECTED, origin=str(tmp_path / "config.json"))
    assert str(result).endswith(f"bilinear, center crop 0.875 (from {tmp_path}/config.json)")


def test_a_folder_written_by_timm(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=1, embed_dim=24, num_heads=3)
    save_for_hf(model, tmp_path, {"pretrained_cfg": {"mean": (0.1, 0.2, 0.3)}}, safe_serialization=True)
    result = preprocessing_of(recipe.Model(name=NAME, weights=str(tmp_path / "model.safetensors")))
    assert without_origin(result) == Preprocessing((0.1, 0.2, 0.3), (0.5,) * 3, "bicubic", 0.9, "center", "")


def test_args_yaml_of_timms_training(tmp_path: Path) -> None:
    args = {"model": NAME, "mean": [0.5], "std": None, "interpolation": "", "crop_pct": None, "lr": 0.1}
    result = preprocessing_of(settings(tmp_path, {"args.yaml": args}))
    assert without_origin(result) == Preprocessing((0.5,) * 3, IMAGENET[1], "bicubic", 0.9, "center", "")


def test_our_model_json(tmp_path: Path) -> None:
    args: dict[str, Any] = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}
    odd = recipe.Model(
        name=NAME, weights="none", image_size=16, args=args, mean=(0.25,), std=(0.5,), crop=0.9, interpolation="box"
    )
    model = build(odd, ("a", "b"), seed=0)
    model.save(tmp_path)
    again = odd.model_copy(
        update={"weights": str(tmp_path / "model.safetensors"), "mean": None, "std": None, "crop": None}
    )
    result = build(again, ("a", "b"), seed=0).info.preprocessing
    assert without_origin(result) == without_origin(model.info.preprocessing)
    assert (result.mean, result.crop, result.crop_mode) == ((0.25,) * 3, 0.9, "center")
    assert result.origin == f"model.interpolation; else {tmp_path / 'model.json'}"
    assert store.load(tmp_path).info.preprocessing == model.info.preprocessing
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": TIMM}))
    assert preprocessing_of(again) == result, "our record has priority"
    other = again.model_copy(update={"weights": str(tmp_path / "other.safetensors")})
    (tmp_path / "other.safetensors").touch()
    assert preprocessing_of(other).mean == (0.1, 0.2, 0.3), "model.json belongs to model.safetensors"
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(RecordError, match=r"model\.json is not JSON"):
        preprocessing_of(again)


@pytest.mark.parametrize(
    ("more", "expected", "origin"),
    [
        ({"mean": 0.5}, replace(EXPECTED, mean=(0.5,) * 3), "model.mean; else FILE"),
        ({"std": "0.1,0.2,0.3"}, replace(EXPECTED, std=(0.1, 0.2, 0.3)), "model.std; else FILE"),
        ({"crop": 0.5}, replace(EXPECTED, crop=0.5), "model.crop; else FILE"),
        ({"crop_mode": "squash"}, replace(EXPECTED, crop=1.0, crop_mode="squash"), "model.crop_mode; else FILE"),
        (
            {"crop_mode": "border", "crop": 0.9, "interpolation": "lanczos"},
            replace(EXPECTED, crop=0.9, crop_mode="border", interpolation="lanczos"),
            "model.interpolation, model.crop, model.crop_mode; else FILE",
        ),
    ],
)
def test_settings_override_the_file(tmp_path: Path, more: dict[str, Any], expected: Preprocessing, origin: str) -> None:
    result = preprocessing_of(settings(tmp_path, {"config.json": {"pretrained_cfg": TIMM}}, **more))
    assert without_origin(result) == expected
    assert result.origin == origin.replace("FILE", str(tmp_path / "config.json"))


def test_a_file_is_ignored_if_everything_is_set(tmp_path: Path) -> None:
    chosen = settings(tmp_path, {"config.json": {"pretrained_cfg": 5}}, mean=0.5, std=0.5, interpolation="box", crop=1)
    assert adjacent_file(chosen) is None
    origin = "model.mean, model.std, model.interpolation, model.crop"
    assert preprocessing_of(chosen) == Preprocessing((0.5,) * 3, (0.5,) * 3, "box", 1.0, "center", origin)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("preprocessor_config.json", "{", ".json is not JSON from line 1, column 2 on"),
        ("preprocessor_config.json", '{\n"mean": }', "is not JSON from line 2, column 9 on"),
        ("config.json", "[" * 100_000, "config.json is not JSON of ours: it is nested too deeply"),
        ("config.json", "1" * 5000, "it holds a number that is too long"),
        ("preprocessor_config.json", "[]", "it does not contain settings"),
        ("preprocessor_config.json", "{}", "it has no 'size' to resize images to"),
        ("config.json", "\xff", "it is not text"),
        ("config.json", '{"pretrained_cfg": 5}', "'pretrained_cfg' = 5 is not a mapping"),
        (
            "config.json",
            '{"pretrained_cfg": {"mean": [123.7, 116.3, 103.5]}}',
            "123.7 is for pixel values from 0 to 255",
        ),
        ("config.json", '{"pretrained_cfg": {"mean": [NaN, 0, 0]}}', "mean = [nan, 0, 0]: it should be a number"),
        ("config.json", '{"pretrained_cfg": {"mean": [0.1, 0.2]}}', "it needs one number, or three"),
        ("config.json", '{"pretrained_cfg": {"std": [0, 0.2, 0.2]}}', "a standard deviation cannot be 0"),
        ("config.json", '{"pretrained_cfg": {"std": {"red": 1}}}', "std = {'red': 1}: it should be a list"),
        ("config.json", '{"pretrained_cfg": {"interpolation": "random"}}', "interpolation = 'random': it should be"),
        ("config.json", '{"pretrained_cfg": {"crop_pct": 1.1}}', "crop = 1.1: it should be at most 1"),
        ("config.json", '{"pretrained_cfg": {"crop_mode": "fit"}}', "crop_mode = 'fit': it should be 'squash', 'cent"),
        ("args.yaml", "crop_pct: [", "args.yaml: invalid YAML: an unclosed bracket"),
        ("args.yaml", "crop_pct: 1\nmean: a: b\n", "args.yaml, line 2: invalid YAML: a second ':'"),
        ("args.yaml", "crop_pct: 1\nmean: !!python/tuple [1]\n", "args.yaml, line 2: invalid YAML: a tag"),
        ("args.yaml", "[" * 5000, "nested too deeply"),
        ("args.yaml", "- crop_pct", "it does not contain settings"),
    ],
)
def test_invalid_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    chosen = settings(tmp_path, {})
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(WeightsError) as caught:
        preprocessing_of(chosen)
    assert "cannot read the preprocessing" in caught.value.message
    assert caught.value.message.count(str(tmp_path / name)) == 1
    assert message in caught.value.message
    assert "model.mean" in caught.value.hint


def images_of(shared: Path) -> Sequence[Path]:
    """Photographs and drawings of several shapes."""
    result = sorted((shared / "data" / "imagenet_samples").glob("*/*"))[::60]
    result += sorted((shared / "data" / "pacs160").glob("*/*/*"))[::1000]
    assert len(result) > 8
    return result


@pytest.mark.parametrize(
    "config",
    [
        {"crop_pct": 0.9},
        {"crop_pct": 0.875, "interpolation": "bilinear"},
        {"crop_pct": 1.0, "input_size": (3, 160, 160)},
        {"crop_pct": 0.95, "crop_mode": "squash"},
        {"crop_pct": 1.0, "crop_mode": "border", "interpolation": "lanczos"},
    ],
    ids=str,
)
def test_transforms_equal_timms(shared: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    """timm's transform is created as in its own validation script."""
    config = {**get_pretrained_cfg(NAME).to_dict(), **config}
    result = preprocessing_of(settings(tmp_path, {"config.json": {"pretrained_cfg": config}}))
    info = ModelInfo(NAME, {}, ("a",), config["input_size"][1], result, (), (), 0, 0, "")
    info = records.loads(ModelInfo, records.dumps(info))
    theirs = create_transform(**resolve_data_config(pretrained_cfg=config), is_training=False)
    ours = evaluation_transform(info)
    for file in images_of(shared):
        image = Pillow.open(file).convert("RGB")
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.slow
def test_effect_on_the_accuracy_of_a_real_model(shared: Path) -> None:
    """The table in docs/preprocessing.md."""
    classes = ImageNetInfo("imagenet-1k").label_names()
    files = sorted((shared / "data" / "imagenet_samples").glob("*/*"))
    images = [Image(file.name, file.name, classes.index(file.parent.name), file) for file in files]
    labels = torch.tensor([image.label for image in images])
    weights = shared / "weights" / f"{NAME}.safetensors"
    model = build(recipe.Model(name=NAME, weights=str(weights)), classes, seed=0)

    def answers(**changes: Any) -> torch.Tensor:
        chosen = recipe.Model.model_validate({"name": NAME, **changes})
        info = replace(model.info, preprocessing=preprocessing_of(chosen))
        with torch.inference_mode():
            batches = evaluation_batches(images, info, 32, workers=0)
            return torch.cat([model.module(torch.from_numpy(pixels)).argmax(1) for pixels, _ in batches])

    squash = answers()
    crops = [{"crop": 1}, {"crop": 0.9}, {"crop": 0.875}, {"crop": 0.875, "crop_mode": "squash"}]
    others = [{"crop_mode": "border"}, {"interpolation": "bilinear"}, {"mean": 0.5, "std": 0.5}, {"mean": 0, "std": 1}]
    for changes in ({}, *crops, *others):
        result = answers(**changes)
        accuracy, same = (result == labels).float().mean().item(), (result == squash).float().mean().item()
        print(f"{changes}: {accuracy:.1%} of {len(labels)} right, {same:.1%} answered as with squash")
        assert 0.67 < accuracy < 0.81
        assert same > 0.77
