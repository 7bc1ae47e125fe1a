"""Conversion between normalised images and raw pixels, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.preprocessing import Preprocessing


def to_pixels(images: npt.NDArray[Any], preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Denormalise images: [batch, 3, S, S] floats -> [batch, 3, S, S] uint8."""
    pixels: npt.NDArray[np.uint8] = np.clip(
        np.rint((images * _by_channel(preprocessing.std) + _by_channel(preprocessing.mean)) * 255), 0, 255
    ).astype(np.uint8)
    return pixels


def normalised(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Normalise pixels: [batch, 3, S, S] uint8 -> [batch, 3, S, S] float32."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    mean, std = _by_channel(preprocessing.mean), _by_channel(preprocessing.std)
    images: npt.NDArray[np.float32] = ((scaled - mean) / std).astype(np.float32)
    return images


def _by_channel(values: Sequence[float]) -> npt.NDArray[np.float32]:
    return np.asarray(values, np.float32)[None, :, None, None]
