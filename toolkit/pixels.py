"""Input of a model: normalised images or raw pixels, in batches of a supported size. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from toolkit.preprocessing import Preprocessing
from toolkit.records import BatchRange

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class InputFormat:
    """Input of a model or an exported file."""

    dtype: str
    """ "float32" for normalised images, "uint8" for raw pixels."""
    mean: tuple[float, ...]
    """Means of red, green and blue, for values in [0, 1]; `std` likewise."""
    std: tuple[float, ...]
    batch: BatchRange

    @classmethod
    def of(cls, preprocessing: Preprocessing, dtype: str = "float32", batch: BatchRange | None = None) -> InputFormat:
        """The format of a model with this preprocessing; by default normalised images in batches of any size."""
        return cls(dtype, preprocessing.mean, preprocessing.std, batch or BatchRange())

    def encode(self, images: Array) -> Array:
        """Normalised images [batch, 3, S, S] as input: unchanged, or denormalised and rounded to pixels."""
        if self.dtype != "uint8":
            return images
        scaled = images * _by_channel(self.std) + _by_channel(self.mean)
        pixels: Array = np.clip(np.rint(scaled * 255), 0, 255).astype(np.uint8)
        return pixels

    def decode(self, inputs: Array) -> Array:
        """Normalised images of an input [batch, 3, S, S]."""
        if self.dtype != "uint8":
            return inputs
        scaled = inputs.astype(np.float32) / np.float32(255)
        images: Array = ((scaled - _by_channel(self.mean)) / _by_channel(self.std)).astype(np.float32)
        return images

    def random(self, batch: int, size: int) -> Array:
        """Random input [batch, 3, size, size], always the same one."""
        images = np.random.default_rng(0).standard_normal((batch, 3, size, size), dtype=np.float32)
        return self.encode(images)

    def logits(self, run: Callable[[Array], Array], images: Array) -> Array:
        """Logits [batch, classes] of any number of normalised images; `run` computes those of one supported input."""
        return run_in_batches(run, self.encode(images), self.batch)


def run_in_batches(run: Callable[[Array], Array], images: Array, sizes: BatchRange) -> Array:
    """The results of `run` for any number of images, called with batches of supported sizes."""
    outputs = [run(batch) for batch in padded_batches(images, sizes)]
    return np.concatenate(outputs)[: len(images)]


def padded_batches(images: Array, sizes: BatchRange) -> Iterator[Array]:
    """Consecutive batches, as large as supported; the last one is padded with copies of its first image if it is too
    small."""
    size = min(len(images), sizes.most or len(images))
    for start in range(0, len(images), max(size, 1)):
        batch = images[start : start + size]
        yield np.concatenate([batch, *[batch[:1]] * (sizes.least - len(batch))])


def _by_channel(values: Sequence[float]) -> npt.NDArray[np.float32]:
    return np.asarray(values, np.float32)[None, :, None, None]
