"""From a decoded picture to a model's input: timm's transforms, with a recipe's strengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, cast

import torch
from PIL import Image as Pillow
from timm.data.transforms_factory import create_transform

from toolkit.recipe import Training
from toolkit.records import ModelInfo

Transform: TypeAlias = Callable[[Pillow.Image], torch.Tensor]
"""A picture of any size to [3, image_size, image_size], float32, normalised."""


def training_transform(settings: Training, info: ModelInfo) -> Transform:
    """Random crop, flip, colour changes and loss of colour, as in DomainBed; random numbers of `random` and torch."""
    prepared = info.preprocessing
    transform = create_transform(
        input_size=(3, info.image_size, info.image_size),
        is_training=True,
        scale=(settings.crop_scale, 1.0),
        hflip=settings.flip,
        # None leaves the change out; 0 would draw random numbers for it, image by image. timm's types do not know None.
        color_jitter=settings.color_jitter or None,  # type: ignore[arg-type]
        grayscale_prob=settings.grayscale,
        interpolation=prepared.interpolation,
        mean=prepared.mean,
        std=prepared.std,
    )
    return cast(Transform, transform)


def evaluation_transform(info: ModelInfo) -> Transform:
    """What the model's record says: by default the whole picture is resized to a square, whatever its shape."""
    prepared = info.preprocessing
    transform = create_transform(
        input_size=(3, info.image_size, info.image_size),
        interpolation=prepared.interpolation,
        mean=prepared.mean,
        std=prepared.std,
        crop_pct=prepared.crop,
        crop_mode=prepared.crop_mode,
    )
    return cast(Transform, transform)
