"""Colour profiles: conversion to sRGB, the colour space that models are trained in.

A profile that changes no colour by more than SRGB_TOLERANCE levels is equivalent to sRGB: such images are not changed.
A profile that cannot be read, or is for another colour space than the image's, is no reason to refuse the image.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image as Pillow
from PIL import ImageCms

SRGB_TOLERANCE = 2
"""In levels of 256."""
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile to the Pillow mode of the images it is for."""


class UnusableProfile(Exception):
    """The profile cannot be applied to the image."""


def to_srgb(image: Pillow.Image, profile: bytes) -> Pillow.Image:
    """Convert an image in mode RGB, L or CMYK to sRGB. Raises UnusableProfile if the profile is not for this mode."""
    try:
        mode, transform = _transform(profile)
        if mode == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if mode != image.mode:
            raise UnusableProfile
        if transform is None:
            return image.convert("RGB")
        converted = ImageCms.applyTransform(image, transform)
        assert converted is not None  # only in-place conversion returns None
        return converted
    except (ImageCms.PyCMSError, OSError, ValueError, ImportError) as error:  # ImportError: Pillow without LittleCMS
        raise UnusableProfile from error


@lru_cache(maxsize=32)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Pillow mode of the profile's images, and the transform to sRGB; None if the profile is equivalent to sRGB."""
    opened = ImageCms.getOpenProfile(BytesIO(profile))
    mode = MODES.get(opened.profile.xcolor_space.strip(), "")
    if not mode:
        raise UnusableProfile
    transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    samples = _samples(mode)
    if samples is not None:
        converted = np.asarray(ImageCms.applyTransform(samples, transform), dtype=np.int16)
        if np.abs(converted - np.asarray(samples.convert("RGB"))).max() <= SRGB_TOLERANCE:
            return mode, None
    return mode, transform


def _samples(mode: str) -> Pillow.Image | None:
    """Sample colours from the whole colour space; None for CMYK."""
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    if mode == "L":
        return Pillow.fromarray(np.arange(256, dtype=np.uint8)[None])
    if mode == "RGB":
        cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
        return Pillow.fromarray(cube.reshape(len(steps), -1, 3))
    return None
