"""Colour profiles: what the numbers of a picture mean where they are not sRGB, the space in which models are trained.

A profile that changes no colour by more than ROUNDING levels is sRGB by another name: such pictures stay as they are,
bit for bit. One that cannot be read, or is of another kind than its picture, is metadata and not a reason to refuse it.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image as Pillow
from PIL import ImageCms

ROUNDING = 2
"""Levels of 256."""
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""A profile's colour space, and the pictures that it describes."""


class NoProfile(Exception):
    """A profile cannot be applied to this picture."""


def to_srgb(picture: Pillow.Image, profile: bytes) -> Pillow.Image:
    """A picture in RGB, L or CMYK as RGB in sRGB. Raises NoProfile where the profile says nothing about it."""
    try:
        mode, transform = _transform(profile)
        if mode == "RGB" and picture.mode == "L":
            picture = picture.convert("RGB")
        if mode != picture.mode:
            raise NoProfile
        if transform is None:
            return picture.convert("RGB")
        converted = ImageCms.applyTransform(picture, transform)
        assert converted is not None  # it is where the picture is not changed in place
        return converted
    except (ImageCms.PyCMSError, OSError, ValueError, ImportError) as error:  # ImportError: Pillow without LittleCMS
        raise NoProfile from error


@lru_cache(maxsize=32)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The pictures a profile is for, and the way to sRGB; None: it is sRGB already."""
    opened = ImageCms.getOpenProfile(BytesIO(profile))
    mode = MODES.get(opened.profile.xcolor_space.strip(), "")
    if not mode:
        raise NoProfile
    transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    samples = _samples(mode)
    if samples is not None:
        seen = np.asarray(ImageCms.applyTransform(samples, transform), dtype=np.int16)
        if np.abs(seen - np.asarray(samples.convert("RGB"))).max() <= ROUNDING:
            return mode, None
    return mode, transform


def _samples(mode: str) -> Pillow.Image | None:
    """Colours all over the space."""
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    if mode == "L":
        return Pillow.fromarray(np.arange(256, dtype=np.uint8)[None])
    if mode == "RGB":
        cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
        return Pillow.fromarray(cube.reshape(len(steps), -1, 3))
    return None
