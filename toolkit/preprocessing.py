"""What there is to know to prepare an image for a model; part of the records, and as pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
"""Filters that Pillow resizes with, by timm's names."""

CropMode: TypeAlias = Literal["squash", "center", "border"]
"""Which side of an image is resized to a given length, by timm's names: both (its shape is lost), the shorter (what is
too long is cut off), or the longer (what is too short is filled up with the mean)."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input: it is resized, its centre is cut out, and its values are normalised."""

    mean: tuple[float, ...]
    """Of red, green and blue, for values from 0 to 1."""
    std: tuple[float, ...]
    interpolation: Interpolation
    crop: float
    """Side of the square that is cut out, as a fraction of the length that the image is resized to."""
    crop_mode: CropMode
    origin: str
    """Who says so: settings, a file beside the weights, timm."""

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        whole = self.crop_mode == "squash" and self.crop == 1
        crop = self.crop_mode if whole else f"{self.crop_mode} crop {self.crop:.4g}"
        return f"mean {mean}, std {std}, {self.interpolation}, {crop} (from {self.origin})"


def by_channel(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Means or deviations for colours from 0 to 1: three numbers, from three or one. ValueError says what is wrong."""
    if values is None:
        return None
    if len(values) not in (1, 3):
        raise ValueError("it needs one number, or three: red, green, blue")
    for value in values:
        if 1 < value <= 255:
            raise ValueError(f"{value:g} is for colours from 0 to 255, here they go from 0 to 1; divide by 255")
        if not 0 <= value <= 1:
            raise ValueError(f"{value:g} is not between 0 and 1, as colours are")
    return values if len(values) == 3 else values * 3


def not_zero(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Deviations; ValueError where one of them is 0."""
    if values and not all(values):
        raise ValueError("0 cannot be divided by")
    return values
