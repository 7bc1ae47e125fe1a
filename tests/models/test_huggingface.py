"""Old and new formats of `preprocessor_config.json`, and equality with Hugging Face's image processors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from toolkit import recipe
from toolkit.dg.transforms import Transform, evaluation_transform
from toolkit.models.huggingface import crop_fraction, recipe_settings
from toolkit.models.preprocessing import preprocessing_of
from toolkit.records import ModelInfo

VIT: dict[str, Any] = {
    "do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 2,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "image_processor_type": "ViTImageProcessor",
    "rescale_factor": 0.00392156862745098, "size": {"height": 224, "width": 224},
}  # fmt: skip
OLD_DEIT: dict[str, Any] = {
    "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 256,
    "feature_extractor_type": "DeiTFeatureExtractor", "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip
OLD_BEIT: dict[str, Any] = {
    "crop_size": 224, "do_center_crop": False, "do_normalize": True, "do_resize": True, "resample": 2, "size": 224,
    "feature_extractor_type": "BeitFeatureExtractor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip
CLIP: dict[str, Any] = {
    **VIT, "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}, "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224}, "resample": 3, "_valid_processor_keys": ["images"],
}  # fmt: skip


def converted(config: dict[str, Any], **changes: Any) -> tuple[Any, ...]:
    settings = recipe_settings({**config, **changes})
    return settings["interpolation"], settings["crop"], settings["crop_mode"]


def transform_of(config: dict[str, Any], folder: Path) -> Transform:
    """Transform of a model for 8 x 8 pixels whose weights are next to such a file."""
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    (folder / "weights.pth").touch()
    settings = recipe.Model(weights=str(folder / "weights.pth"))
    return evaluation_transform(ModelInfo("", {}, (), 8, preprocessing_of(settings), (), (), 0, 0, ""))


def test_files_of_vit_deit_beit_and_clip() -> None:
    assert converted(VIT) == ("bilinear", 1.0, "squash")
    assert converted(OLD_DEIT) == ("bicubic", 0.875, "squash")
    assert converted(OLD_BEIT) == ("bilinear", 1.0, "squash")
    assert converted(CLIP) == ("bicubic", 1.0, "center")
    assert converted(CLIP, size=256) == ("bicubic", 0.875, "center")
    assert converted(CLIP, size=256, default_to_square=True) == ("bicubic", 0.875, "squash")
    size = {"height": 224, "width": 224, "shortest_edge": None}
    assert converted(VIT, size=size, do_pad=None, do_center_crop=None) == ("bilinear", 1.0, "squash")
    assert converted(VIT, do_resize=False, resample=None, size=None) == ("bicubic", 1.0, "squash")
    assert recipe_settings(OLD_DEIT)["mean"] == OLD_DEIT["image_mean"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_mean": 0.25, "image_std": 0.125},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]},
        {"do_rescale": False, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]},
        {"do_rescale": False, "do_normalize": False},
    ],
    ids=str,
)
def test_values_equal_the_processors(changes: dict[str, Any], tmp_path: Path) -> None:
    """The processor multiplies by the factor, subtracts the mean and divides by the std, if enabled."""
    config = {**VIT, "size": {"height": 8, "width": 8}, **changes}
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = pixels.astype(np.float64) * (config["rescale_factor"] if config["do_rescale"] else 1)
    if config["do_normalize"]:
        expected = (expected - config["image_mean"]) / config["image_std"]
    image = transform_of(config, tmp_path)(Image.fromarray(pixels))
    np.testing.assert_allclose(image.numpy().transpose(1, 2, 0), expected, rtol=1e-5, atol=1e-5)


def test_a_crop_equals_the_processors(tmp_path: Path) -> None:
    """The shorter side is resized to 12, then the centre of 8 x 8 is cropped."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    changes = {"size": {"shortest_edge": 12}, "crop_size": {"height": 8, "width": 8}, "do_normalize": False}
    image = transform_of({**CLIP, **changes}, tmp_path)(Image.fromarray(pixels))
    resized = Image.fromarray(pixels).resize((20, 12), Image.Resampling.BICUBIC)
    expected = np.asarray(resized, np.float32)[2:10, 6:14] / 255
    np.testing.assert_allclose(image.numpy().transpose(1, 2, 0), expected, atol=1e-6)


def test_a_crop_fraction_reproduces_the_pixel_sizes() -> None:
    sizes = [(kept, side) for side in range(1, 600) for kept in range(1, side + 1, 7)]
    assert [pair for pair in sizes if math.floor(pair[0] / crop_fraction(*pair)) != pair[1]] == []
    assert crop_fraction(224, 256) == 0.875


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (VIT, {"image_mean": None}, "'image_mean' = None"),
        (VIT, {"image_std": ["0.5"]}, "'image_std' = ['0.5']"),
        (VIT, {"image_std": []}, "'image_std' = []"),
        (VIT, {"rescale_factor": 0}, "'rescale_factor' = 0 is not between 0 and 1"),
        (VIT, {"resample": 9}, "'resample' = 9"),
        (VIT, {"resample": "bicubic"}, "'resample' = 'bicubic'"),
        (VIT, {"resample": None}, "'resample' = None"),
        (VIT, {"do_resize": "yes"}, "'do_resize' = 'yes' is neither true nor false"),
        (VIT, {"do_pad": True}, "'do_pad' = True is not supported"),
        (VIT, {"do_flip_channel_order": True}, "'do_flip_channel_order'"),
        (VIT, {"rescale_offset": True}, "'rescale_offset'"),
        (VIT, {"crop_pct": 0.9}, "'crop_pct' = 0.9"),
        (VIT, {"size": None}, "it has no 'size'"),
        (VIT, {"size": {"height": 224, "width": 336}}, "'size' = {'height': 224, 'width': 336} is not a square of"),
        (VIT, {"size": {"longest_edge": 224}}, "'size' = {'longest_edge': 224}"),
        (VIT, {"size": {"height": 0, "width": 0}}, "'size' = 0 is not a number of pixels"),
        (VIT, {"size": 224, "image_processor_type": "SwinImageProcessor"}, "is ambiguous"),
        (VIT, {"crop_size": 224}, "'crop_size' is set but 'do_center_crop' is not"),
        (VIT, {"do_center_crop": True}, "'crop_size' = None is not a number of pixels"),
        (OLD_DEIT, {"crop_size": 288}, "'crop_size' = 288 is larger than 'size' = 256"),
        (OLD_DEIT, {"do_resize": False}, "'do_center_crop' without 'do_resize'"),
        (CLIP, {"do_center_crop": False}, "'size' keeps the aspect ratio"),
    ],
    ids=lambda value: None if "image_mean" in value else str(value),
)
def test_unsupported_keys_are_named(config: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="'") as caught:
        recipe_settings({**config, **changes})
    assert message in str(caught.value)
