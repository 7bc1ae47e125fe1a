"""Transforms from a decoded image to a model's input, by timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, cast

import torch
from PIL import Image as Pillow
from timm.data.transforms_factory import create_transform
from torch.nn.functional import interpolate

from toolkit.recipe import Training
from toolkit.records import ModelInfo

Transform: TypeAlias = Callable[[Pillow.Image], torch.Tensor]
"""An RGB image of any size to [3, image_size, image_size], float32, normalised."""


def training_transform(settings: Training, info: ModelInfo) -> Transform:
    """Random crop, flip, colour jitter and greyscale, as in DomainBed; draws from `random` and torch."""
    preprocessing = info.preprocessing
    transform = create_transform(
        input_size=(3, info.image_size, info.image_size),
        is_training=True,
        scale=(settings.crop_scale, 1.0),
        hflip=settings.flip,
        # None disables jitter; 0 would still draw random numbers per image. timm's annotation lacks None.
        color_jitter=settings.color_jitter or None,  # type: ignore[arg-type]
        grayscale_prob=settings.grayscale,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    return cast(Transform, transform)


def evaluation_transform(info: ModelInfo) -> Transform:
    """The preprocessing recorded for the model; by default the whole image is squashed to a square."""
    preprocessing = info.preprocessing
    transform = create_transform(
        input_size=(3, info.image_size, info.image_size),
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop,
        crop_mode=preprocessing.crop_mode,
    )
    return cast(Transform, transform)


def resampled(images: torch.Tensor, size: int) -> torch.Tensor:
    """Images [batch, 3, S, S] as [batch, 3, size, size]: the images themselves, or resampled (bicubic, antialiased)."""
    if images.shape[-1] == size:
        return images
    return interpolate(images, size=(size, size), mode="bicubic", antialias=True)
