"""Images as a model reads them, normalised, and as a file may take them, raw pixels; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.preprocessing import Preprocessing


def to_pixels(images: npt.NDArray[Any], prepared: Preprocessing) -> npt.NDArray[np.uint8]:
    """The pixels [batch, 3, S, S], 0 to 255, that normalised images were made from."""
    pixels: npt.NDArray[np.uint8] = np.clip(
        np.rint((images * _by_channel(prepared.std) + _by_channel(prepared.mean)) * 255), 0, 255
    ).astype(np.uint8)
    return pixels


def normalised(pixels: npt.NDArray[np.uint8], prepared: Preprocessing) -> npt.NDArray[np.float32]:
    """Pixels as a model reads them."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    mean, std = _by_channel(prepared.mean), _by_channel(prepared.std)
    images: npt.NDArray[np.float32] = ((scaled - mean) / std).astype(np.float32)
    return images


def _by_channel(values: Sequence[float]) -> npt.NDArray[np.float32]:
    return np.asarray(values, np.float32)[None, :, None, None]
