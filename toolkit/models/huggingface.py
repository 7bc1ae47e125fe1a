"""Convert Hugging Face's `preprocessor_config.json` to settings of `recipe.Model`.

Follows its image processors for ViT, DeiT, BEiT and CLIP. A key with an unsupported meaning is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from toolkit.preprocessing import Interpolation

Config: TypeAlias = Mapping[str, Any]
"""Unvalidated content of a file."""

FILTERS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's resampling filters, by their number in `resample`."""
SIZE_IS_SQUARE = {"ViT": True, "DeiT": True, "Beit": True, "CLIP": False}
"""Whether a processor takes a `size` that is one number as a square, or as the length of the shorter side."""
USED_KEYS = frozenset(
    (
        *("do_resize", "size", "resample", "default_to_square", "do_center_crop", "crop_size"),
        *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
        *("image_processor_type", "feature_extractor_type"),
    )
)
IGNORED_KEYS = frozenset(
    (
        *("processor_class", "auto_map", "model_input_names", "do_convert_rgb", "do_reduce_labels", "reduce_labels"),
        *("data_format", "input_data_format", "return_tensors", "device", "transformers_version"),
    )
)
"""Keys without effect on colour images, like those that start with an underscore."""


def recipe_settings(config: Config) -> dict[str, Any]:
    """Unvalidated mean, std, interpolation, crop and crop_mode; ValueError for a key without an equivalent."""
    active = {key: value for key, value in config.items() if value is not None and value is not False}
    for key in sorted(active.keys() - USED_KEYS - IGNORED_KEYS):
        if not key.startswith("_"):
            raise ValueError(f"{key!r} = {active[key]!r} is not supported")
    crop, mode = _crop(config)
    mean, std = _normalisation(config)
    return {"mean": mean, "std": std, "interpolation": _filter(config), "crop": crop, "crop_mode": mode}


def default_settings(model_type: str) -> dict[str, Any]:
    """Default mean, std and interpolation in the training of a `model_type`."""
    if model_type.startswith("dinov2"):
        return {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "interpolation": "bicubic"}
    return {"mean": 0.5, "std": 0.5, "interpolation": "bilinear" if model_type == "vit" else "bicubic"}


def resize_note(config: Config) -> str:
    """A note to append to the file's name if images are resized although the file disables it."""
    return ", but images of other sizes are resized despite do_resize=false" if config.get("do_resize") is False else ""


def _normalisation(config: Config) -> tuple[list[float], list[float]]:
    """Mean and std for values in [0, 1] that equal (value * factor - mean) / std for values in [0, 255]."""
    factor = _numbers(config, "rescale_factor", 1 / 255)[0] if _flag(config, "do_rescale") else 1.0
    if not 0 < factor <= 1:
        raise ValueError(f"'rescale_factor' = {factor} is not between 0 and 1")
    if not _flag(config, "do_normalize"):
        return [0.0], [1 / (255 * factor)]
    mean, std = _numbers(config, "image_mean"), _numbers(config, "image_std")
    return [value / (255 * factor) for value in mean], [value / (255 * factor) for value in std]


def _filter(config: Config) -> Interpolation:
    number = config.get("resample")
    if number is None and not _flag(config, "do_resize"):
        return "bicubic"  # without effect: images already have the model's size
    if not isinstance(number, int) or isinstance(number, bool) or number not in range(len(FILTERS)):
        raise ValueError(f"'resample' = {number!r} is not the number of a Pillow filter")
    return FILTERS[number]


def _crop(config: Config) -> tuple[float, str]:
    """Crop fraction and crop mode."""
    cropped = _flag(config, "do_center_crop", missing=False)
    if not _flag(config, "do_resize"):
        if cropped:
            raise ValueError("'do_center_crop' without 'do_resize' is not supported")
        return 1.0, "squash"  # images that have the model's size are unchanged
    side, mode = _resized(config)
    if not cropped:
        if mode == "center":
            raise ValueError("'size' keeps the aspect ratio, and without 'do_center_crop' images are not square")
        if config.get("crop_size") is not None and config.get("do_center_crop") is None:
            raise ValueError("'crop_size' is set but 'do_center_crop' is not")
        return 1.0, mode
    kept = _square(config, "crop_size")
    if kept > side:
        raise ValueError(f"'crop_size' = {kept} is larger than 'size' = {side}")
    return crop_fraction(kept, side), mode


def _resized(config: Config) -> tuple[int, str]:
    """Length in pixels to resize to, and crop mode."""
    size = config.get("size")
    if size is None:
        raise ValueError("it has no 'size' to resize images to")
    sides = {key: value for key, value in size.items() if value is not None} if isinstance(size, Mapping) else {}
    if sides.keys() == {"shortest_edge"}:
        return _square(sides, "shortest_edge"), "center"
    if isinstance(size, Mapping):
        return _square(config, "size"), "squash"
    processor = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    defaults = (square for prefix, square in SIZE_IS_SQUARE.items() if processor.startswith(prefix))
    square = next(defaults, None) if (setting := config.get("default_to_square")) is None else setting
    if square is None:
        raise ValueError(f"'size' = {size!r} is ambiguous: set 'default_to_square'")
    return _square(config, "size"), "squash" if square else "center"


def _square(config: Config, key: str) -> int:
    """Side in pixels of a square, from a number or from height and width."""
    side = config.get(key)
    if isinstance(side, Mapping):
        sides = {name: value for name, value in side.items() if value is not None}
        if sides.keys() != {"height", "width"} or sides["height"] != sides["width"]:
            raise ValueError(f"{key!r} = {sides} is not a square of height and width")
        side = sides["height"]
    if not isinstance(side, int) or isinstance(side, bool) or not 0 < side < 2**16:
        raise ValueError(f"{key!r} = {side!r} is not a number of pixels")
    return side


def crop_fraction(kept: int, side: int) -> float:
    """The fraction with floor(kept / fraction) = side, as timm computes the side."""
    fraction = kept / side
    while math.floor(kept / fraction) < side:
        fraction = math.nextafter(fraction, 0)
    return fraction


def _flag(config: Config, key: str, *, missing: bool = True) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key!r} = {value!r} is neither true nor false")
    return missing if value is None else value


def _numbers(config: Config, key: str, missing: float | None = None) -> list[float]:
    """A number or a list of numbers, as a list."""
    value = config.get(key, missing)
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise ValueError(f"{key!r} = {value!r} is neither a number nor a list of numbers")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{key!r} contains NaN or infinity")
    return values
