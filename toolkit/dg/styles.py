"""Handwritten digits drawn in four styles, which are the domains of the built-in dataset.

Digits of 8x8 pixels are upsampled to strokes of 32x32 pixels and drawn as dark ink on paper, in colour on a dark
background, as an outline, and as one texture on another. Every image has a separate seeded random generator, of which
only uniform samples are used, so that images are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy  # loads scipy.ndimage on first use, so not for cached images

from toolkit.dg.image import Pixels

SIZE = 32
"""Height and width of the images, in pixels."""

Plane: TypeAlias = npt.NDArray[np.float64]
"""[SIZE, SIZE], 0 to 1; or [SIZE, SIZE, 3] in colour."""


def draw_all(digits: npt.NDArray[np.float64]) -> Pixels:
    """Grey digits [n, 8, 8], 0 to 1, in every style, sorted by name: [style, n, SIZE, SIZE, 3]."""
    strokes = _upsample(digits)
    drawn = [[draw(style, stroke, seed) for seed, stroke in enumerate(strokes)] for style in sorted(STYLES)]
    return np.array(drawn)


def draw(style: str, stroke: Plane, seed: int) -> Pixels:
    """One image [SIZE, SIZE, 3]; `stroke` is the coverage of each pixel."""
    rng = np.random.default_rng([sorted(STYLES).index(style), seed])
    return np.rint(255 * np.clip(STYLES[style](stroke, rng), 0, 1)).astype(np.uint8)


def _upsample(digits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Grey digits [n, 8, 8] to strokes with sharp edges [n, SIZE, SIZE]."""
    padded = np.pad(digits, ((0, 0), (1, 1), (1, 1)))
    smooth = scipy.ndimage.zoom(padded, (1, SIZE / 10, SIZE / 10), order=3, mode="grid-constant", grid_mode=True)
    return 1 / (1 + np.exp(-14 * (smooth - 0.42)))


def _ink(stroke: Plane, rng: np.random.Generator) -> Plane:
    """Uneven dark ink on grainy, yellowish paper."""
    paper = np.array([0.97, 0.94, 0.86]) - 0.08 * rng.random(3)
    ink = np.array([0.08, 0.09, 0.22]) + 0.18 * rng.random(3)
    density = stroke * (0.75 + 0.25 * _smooth_noise(rng, 3.0))
    return _blend(paper, ink, density) + 0.05 * (rng.random((SIZE, SIZE, 1)) - 0.5)


def _colour(stroke: Plane, rng: np.random.Generator) -> Plane:
    """A bright colour on a dark background with a gradient."""
    hue, background_hue, angle = rng.random(3)
    rows, columns = _grid()
    ramp = 0.5 + 0.35 * (np.cos(2 * np.pi * angle) * rows + np.sin(2 * np.pi * angle) * columns)
    background = _hue(background_hue) * (0.1 + 0.35 * ramp[..., None])
    return _blend(background, _hue(hue) * 0.7 + 0.3, stroke)


def _outline(stroke: Plane, rng: np.random.Generator) -> Plane:
    """A grey pencil line along the edges of the stroke, on white."""
    line = 4 * stroke * (1 - stroke)
    line = np.clip(1.6 * scipy.ndimage.gaussian_filter(line, 0.6), 0, 1)
    pressure = 0.65 + 0.35 * _smooth_noise(rng, 4.0)
    shade = 0.1 + 0.3 * rng.random()
    return _blend(np.full(3, 0.98), np.full(3, shade), line * pressure)


def _texture(stroke: Plane, rng: np.random.Generator) -> Plane:
    """Stripes on a mottled background; either may be brighter."""
    bright, dark = (0.62, 0.3) if rng.random() < 0.5 else (0.3, 0.62)
    angle, period, phase = 2 * np.pi * rng.random(), 5 + 4 * rng.random(), 2 * np.pi * rng.random()
    rows, columns = _grid()
    stripes = np.sin(SIZE * np.pi / period * (np.cos(angle) * rows + np.sin(angle) * columns) + phase)
    figure = (bright + 0.13 * stripes)[..., None] * (0.75 + 0.5 * rng.random(3))
    background = (dark + 0.45 * (_smooth_noise(rng, 1.5) - 0.5))[..., None] * (0.75 + 0.5 * rng.random(3))
    return _blend(background, figure, stroke)


STYLES: dict[str, Callable[[Plane, np.random.Generator], Plane]] = {
    "ink": _ink,
    "colour": _colour,
    "outline": _outline,
    "texture": _texture,
}


def _blend(background: Plane, figure: Plane, coverage: Plane) -> Plane:
    """Composite [SIZE, SIZE, 3]: `figure` where `coverage` is 1, `background` where it is 0."""
    return background + coverage[..., None] * (figure - background)


def _smooth_noise(rng: np.random.Generator, width: float) -> Plane:
    """Smooth noise with features of about `width` pixels, 0 to 1."""
    noise = scipy.ndimage.gaussian_filter(rng.random((SIZE, SIZE)), width, mode="wrap")
    scaled: Plane = (noise - noise.min()) / (noise.max() - noise.min())
    return scaled


def _hue(angle: float) -> Plane:
    """A saturated colour; `angle` is its hue, 0 to 1."""
    offset: Plane = np.abs((angle * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3)
    return np.clip(offset - 1, 0, 1)


def _grid() -> tuple[Plane, Plane]:
    """Row and column coordinates, -1 to 1, both [SIZE, SIZE]."""
    axis = np.linspace(-1, 1, SIZE)
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    return rows, columns
