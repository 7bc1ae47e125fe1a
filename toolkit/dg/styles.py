"""Handwritten digits drawn in four styles, which are the domains of the built-in data.

Digits of 8x8 pixels are enlarged to strokes of 32x32 pixels and drawn as dark ink on paper, in colour on a dark ground,
as an outline, and as one texture on another. Every picture has its own seeded stream of numbers, of which only uniform
ones are used: it is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy  # scipy.ndimage is loaded when it is first used: for pictures in the cache it is not

from toolkit.dg.image import Pixels

SIZE = 32
"""Height and width of a picture, in pixels."""

Plane: TypeAlias = npt.NDArray[np.float64]
"""[SIZE, SIZE], 0 to 1; a picture has a third dimension for red, green, blue."""


def draw_all(digits: npt.NDArray[np.float64]) -> Pixels:
    """Every digit [n, 8, 8] of grey values 0 to 1 in every style, by the styles' names: [style, n, SIZE, SIZE, 3]."""
    strokes = _enlarge(digits)
    drawn = [[draw(style, stroke, seed) for seed, stroke in enumerate(strokes)] for style in sorted(STYLES)]
    return np.array(drawn)


def draw(style: str, stroke: Plane, seed: int) -> Pixels:
    """One picture: `stroke` is how much of each pixel is covered."""
    numbers = np.random.default_rng([sorted(STYLES).index(style), seed])
    return np.rint(255 * np.clip(STYLES[style](stroke, numbers), 0, 1)).astype(np.uint8)


def _enlarge(digits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[n, 8, 8] of grey values to [n, SIZE, SIZE] of strokes with clear edges."""
    framed = np.pad(digits, ((0, 0), (1, 1), (1, 1)))
    smooth = scipy.ndimage.zoom(framed, (1, SIZE / 10, SIZE / 10), order=3, mode="grid-constant", grid_mode=True)
    return 1 / (1 + np.exp(-14 * (smooth - 0.42)))


def _ink(stroke: Plane, numbers: np.random.Generator) -> Plane:
    """Dark ink on yellowish paper: the ink is uneven, the paper has a grain."""
    paper = np.array([0.97, 0.94, 0.86]) - 0.08 * numbers.random(3)
    ink = np.array([0.08, 0.09, 0.22]) + 0.18 * numbers.random(3)
    density = stroke * (0.75 + 0.25 * _clouds(numbers, 3.0))
    return _blend(paper, ink, density) + 0.05 * (numbers.random((SIZE, SIZE, 1)) - 0.5)


def _colour(stroke: Plane, numbers: np.random.Generator) -> Plane:
    """A bright colour on a dark ground whose own colour changes from one side to the other."""
    hue, ground, angle = numbers.random(3)
    rows, columns = _grid()
    ramp = 0.5 + 0.35 * (np.cos(2 * np.pi * angle) * rows + np.sin(2 * np.pi * angle) * columns)
    dark = _hue(ground) * (0.1 + 0.35 * ramp[..., None])
    return _blend(dark, _hue(hue) * 0.7 + 0.3, stroke)


def _outline(stroke: Plane, numbers: np.random.Generator) -> Plane:
    """A grey pencil line along the edge of the stroke, on white."""
    line = 4 * stroke * (1 - stroke)
    line = np.clip(1.6 * scipy.ndimage.gaussian_filter(line, 0.6), 0, 1)
    pressure = 0.65 + 0.35 * _clouds(numbers, 4.0)
    shade = 0.1 + 0.3 * numbers.random()
    return _blend(np.full(3, 0.98), np.full(3, shade), line * pressure)


def _texture(stroke: Plane, numbers: np.random.Generator) -> Plane:
    """Stripes on a mottled ground; either may be the brighter one."""
    bright, dark = (0.62, 0.3) if numbers.random() < 0.5 else (0.3, 0.62)
    angle, period, phase = 2 * np.pi * numbers.random(), 5 + 4 * numbers.random(), 2 * np.pi * numbers.random()
    rows, columns = _grid()
    stripes = np.sin(SIZE * np.pi / period * (np.cos(angle) * rows + np.sin(angle) * columns) + phase)
    figure = (bright + 0.13 * stripes)[..., None] * (0.75 + 0.5 * numbers.random(3))
    ground = (dark + 0.45 * (_clouds(numbers, 1.5) - 0.5))[..., None] * (0.75 + 0.5 * numbers.random(3))
    return _blend(ground, figure, stroke)


STYLES: dict[str, Callable[[Plane, np.random.Generator], Plane]] = {
    "ink": _ink,
    "colour": _colour,
    "outline": _outline,
    "texture": _texture,
}


def _blend(ground: Plane, figure: Plane, cover: Plane) -> Plane:
    """[SIZE, SIZE, 3]: `figure` where `cover` is 1, `ground` where it is 0."""
    return ground + cover[..., None] * (figure - ground)


def _clouds(numbers: np.random.Generator, width: float) -> Plane:
    """Soft spots of about `width` pixels, 0 to 1."""
    spots = scipy.ndimage.gaussian_filter(numbers.random((SIZE, SIZE)), width, mode="wrap")
    clouds: Plane = (spots - spots.min()) / (spots.max() - spots.min())
    return clouds


def _hue(turn: float) -> Plane:
    """A saturated colour; `turn` is its place on the colour circle, 0 to 1."""
    distance: Plane = np.abs((turn * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3)
    return np.clip(distance - 1, 0, 1)


def _grid() -> tuple[Plane, Plane]:
    """Rows and columns of a picture, -1 to 1."""
    axis = np.linspace(-1, 1, SIZE)
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    return rows, columns
