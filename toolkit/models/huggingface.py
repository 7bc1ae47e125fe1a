"""Hugging Face's `preprocessor_config.json` in the terms of `recipe.Model`.

Written from what its image processors of ViT, DeiT, BEiT and CLIP do with each key; a key that asks for something else
is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from toolkit.preprocessing import Interpolation

Config: TypeAlias = Mapping[str, Any]
"""A file's content, nothing checked yet."""

FILTERS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By Pillow's numbers, which `resample` holds."""
SQUARES = {"ViT": True, "DeiT": True, "Beit": True, "CLIP": False}
"""What a processor makes of a `size` that is one number: a square, or the length of the shorter side."""
READ = frozenset(
    (
        *("do_resize", "size", "resample", "default_to_square", "do_center_crop", "crop_size"),
        *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
        *("image_processor_type", "feature_extractor_type"),
    )
)
IDLE = frozenset(
    (
        *("processor_class", "auto_map", "model_input_names", "do_convert_rgb", "do_reduce_labels", "reduce_labels"),
        *("data_format", "input_data_format", "return_tensors", "device", "transformers_version"),
    )
)
"""Keys that do not change what a model sees of a colour image. Those that begin with _ do not either."""


def settings_in(config: Config) -> dict[str, Any]:
    """mean, std, interpolation, crop and crop_mode, still to be checked; ValueError names a key that has no equal."""
    given = {key: value for key, value in config.items() if value is not None and value is not False}
    for key in sorted(given.keys() - READ - IDLE):
        if not key.startswith("_"):
            raise ValueError(f"{key!r} {given[key]!r} asks for what is not done here")
    crop, mode = _crop(config)
    mean, std = _normalisation(config)
    return {"mean": mean, "std": std, "interpolation": _filter(config), "crop": crop, "crop_mode": mode}


def remark(config: Config) -> str:
    """What is done otherwise than the file says, to follow its name."""
    return (
        ", but images of other sizes are resized although do_resize is false"
        if config.get("do_resize") is False
        else ""
    )


def _normalisation(config: Config) -> tuple[list[float], list[float]]:
    """(value * factor - mean) / std for values from 0 to 255, as mean and std for values from 0 to 1."""
    factor = _numbers(config, "rescale_factor", 1 / 255)[0] if _does(config, "do_rescale") else 1.0
    if not 0 < factor <= 1:
        raise ValueError(f"'rescale_factor' {factor} is not between 0 and 1")
    if not _does(config, "do_normalize"):
        return [0.0], [1 / (255 * factor)]
    mean, std = _numbers(config, "image_mean"), _numbers(config, "image_std")
    return [value / (255 * factor) for value in mean], [value / (255 * factor) for value in std]


def _filter(config: Config) -> Interpolation:
    number = config.get("resample")
    if number is None and not _does(config, "do_resize"):
        return "bicubic"  # images of the model's size, which no filter changes
    if not isinstance(number, int) or isinstance(number, bool) or number not in range(len(FILTERS)):
        raise ValueError(f"'resample' {number!r} is no number of a filter of Pillow's")
    return FILTERS[number]


def _crop(config: Config) -> tuple[float, str]:
    """Fraction that is kept of the length that images are resized to, and what is resized to it."""
    cropped = _does(config, "do_center_crop", missing=False)
    if not _does(config, "do_resize"):
        if cropped:
            raise ValueError("'do_center_crop' without 'do_resize' would leave the scale of things to the images")
        return 1.0, "squash"  # images of the model's size stay as they are
    side, mode = _resized(config)
    if not cropped:
        if mode == "center":
            raise ValueError("'size' keeps the shape of images and no 'do_center_crop' makes them squares")
        if config.get("crop_size") is not None and config.get("do_center_crop") is None:
            raise ValueError("'crop_size' is given but not 'do_center_crop'")
        return 1.0, mode
    kept = _square(config, "crop_size")
    if kept > side:
        raise ValueError(f"'crop_size' {kept} is larger than 'size' {side}")
    return fraction(kept, side), mode


def _resized(config: Config) -> tuple[int, str]:
    """Length in pixels, and what is resized to it."""
    size = config.get("size")
    if size is None:
        raise ValueError("it has no 'size' that images are resized to")
    given = {key: value for key, value in size.items() if value is not None} if isinstance(size, Mapping) else {}
    if given.keys() == {"shortest_edge"}:
        return _square(given, "shortest_edge"), "center"
    if isinstance(size, Mapping):
        return _square(config, "size"), "squash"
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    squares = (square for begin, square in SQUARES.items() if kind.startswith(begin))
    square = next(squares, None) if (said := config.get("default_to_square")) is None else said
    if square is None:
        raise ValueError(f"'size' {size!r} means a square or the shorter side, and nothing says which")
    return _square(config, "size"), "squash" if square else "center"


def _square(config: Config, key: str) -> int:
    """Side in pixels of a square that is given as a number, or as height and width."""
    found = config.get(key)
    if isinstance(found, Mapping):
        sides = {name: value for name, value in found.items() if value is not None}
        if sides.keys() != {"height", "width"} or sides["height"] != sides["width"]:
            raise ValueError(f"{key!r} {sides} is not the height and width of a square")
        found = sides["height"]
    if not isinstance(found, int) or isinstance(found, bool) or not 0 < found < 2**16:
        raise ValueError(f"{key!r} {found!r} is no number of pixels")
    return found


def fraction(kept: int, side: int) -> float:
    """The fraction with floor(kept / fraction) = side, which is how timm computes the side."""
    found = kept / side
    while math.floor(kept / found) < side:
        found = math.nextafter(found, 0)
    return found


def _does(config: Config, key: str, *, missing: bool = True) -> bool:
    found = config.get(key)
    if found is not None and not isinstance(found, bool):
        raise ValueError(f"{key!r} {found!r} is neither true nor false")
    return missing if found is None else found


def _numbers(config: Config, key: str, missing: float | None = None) -> list[float]:
    """One number or a list of them, as a list."""
    found = config.get(key, missing)
    values = found if isinstance(found, list) else [found]
    if not values or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise ValueError(f"{key!r} {found!r} is neither a number nor a list of numbers")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{key!r} holds NaN or infinity")
    return values
