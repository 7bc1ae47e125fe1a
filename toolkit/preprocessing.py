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
