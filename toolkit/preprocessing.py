"""Image preprocessing of a model: resizing, cropping and normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
"""Pillow's resampling filters, by timm's names."""

CropMode: TypeAlias = Literal["squash", "center", "border"]
"""Which side of an image is resized to the target length, by timm's names: `squash` both (the aspect ratio is lost),
`center` the shorter (the longer is cropped), `border` the longer (the shorter is padded with the mean)."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input: resize, centre crop, normalise."""

    mean: tuple[float, ...]
    """Mean of red, green and blue, for values in [0, 1]; `std` likewise."""
    std: tuple[float, ...]
    interpolation: Interpolation
    crop: float
    """Side of the centre crop, as a fraction of the length that the image is resized to."""
    crop_mode: CropMode
    origin: str
    """Source of these values: settings, a file next to the weights, or timm."""

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        whole = self.crop_mode == "squash" and self.crop == 1
        crop = self.crop_mode if whole else f"{self.crop_mode} crop {self.crop:.4g}"
        return f"mean {mean}, std {std}, {self.interpolation}, {crop} (from {self.origin})"


def by_channel(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Three means or standard deviations for values in [0, 1], from three numbers or one; ValueError if invalid."""
    if values is None:
        return None
    if len(values) not in (1, 3):
        raise ValueError("it needs one number, or three: red, green, blue")
    for value in values:
        if 1 < value <= 255:
            raise ValueError(f"{value:g} is for pixel values from 0 to 255; divide by 255 for values from 0 to 1")
        if not 0 <= value <= 1:
            raise ValueError(f"{value:g} is not between 0 and 1")
    return values if len(values) == 3 else values * 3


def not_zero(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Standard deviations; ValueError if one of them is 0."""
    if values and not all(values):
        raise ValueError("a standard deviation cannot be 0")
    return values
