"""Milliseconds of a model as a sum over its blocks, interpolated between measured probes.

A block's time is that of the smallest block (one head, the narrowest widths), plus what its attention takes longer,
plus what its MLP takes longer. Each of these is piecewise linear in every size between measured sizes, and an error
outside of them. The last block is measured by itself: exported files compute only the classifier's tokens in it if they
can.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TypeVar

from toolkit.errors import BadInput, InvalidMeasurement
from toolkit.prune.cost_table import ModelShape
from toolkit.prune.grid import Grid, key_of
from toolkit.records import BlockShape, LatencyTable, Probe, ProbeSession

PARTS = ("rest", "tokens", "attention", "mlp", "last")
"""Terms of a latency: the model with the smallest last block alone; the smallest blocks before it; what their attention
and their MLPs take longer than in the smallest blocks; what the last block takes longer."""
Parts = tuple[float, float, float, float, float]
"""Milliseconds of each of PARTS."""
Point = tuple[float, ...]
Key = TypeVar("Key")


class Interpolation:
    """Piecewise multilinear function through the points of a grid."""

    def __init__(self, names: Sequence[str], values: Mapping[Point, float]) -> None:
        """names: what the coordinates are, for messages. values: by point; the points are a full grid."""
        self._names, self._values = names, values
        self._levels = [sorted({point[axis] for point in values}) for axis in range(len(names))]

    def __call__(self, *at: float) -> float:
        """The value at a point; raises BadInput outside of the grid."""
        sides = [self._bracket(name, levels, x) for name, levels, x in zip(self._names, self._levels, at, strict=True)]
        corners = itertools.product(*sides)
        return sum(
            math.prod(weight for _, weight in corner) * self._values[tuple(level for level, _ in corner)]
            for corner in corners
        )

    @staticmethod
    def _bracket(name: str, levels: Sequence[float], x: float) -> list[tuple[float, float]]:
        """The measured sizes around `x`, and the weight of each; weights of zero are left out."""
        if x in levels:
            return [(x, 1.0)]
        if not levels[0] < x < levels[-1]:
            measured = f"{levels[0]:g} to {levels[-1]:g}" if len(levels) > 1 else f"{levels[0]:g} only"
            raise BadInput(
                f"latencies were measured for {name} {measured}, not for {x:g}", "measure more sizes: they are a Grid"
            )
        above = next(index for index, level in enumerate(levels) if level > x)
        low, high = levels[above - 1], levels[above]
        weight = (x - low) / (high - low)
        return [(low, 1 - weight), (high, weight)]


class MeasuredTable:
    """Latency of any configuration inside a grid; implements `CostTable`."""

    unit = "ms"

    def __init__(self, record: LatencyTable, grid: Grid) -> None:
        """Raises InvalidMeasurement if points of the grid were not measured."""
        measured = Differences(record.sessions, grid)
        self._grid = grid
        self._factors: tuple[float, ...] = (1.0,) * len(PARTS)
        self._cache: dict[tuple[BlockShape, bool], Parts] = {}
        image = grid.image_sizes[0]
        self._tokens = Interpolation(("tokens",), {(n,): _value(measured.smallest, grid.tiny(n)) for n in grid.tokens})
        merges = {self._merge_point(shape): _value(measured.smallest, shape) for shape in grid.merges()}
        self._merging = Interpolation(("tokens that are merged", "fraction of the mergeable tokens"), merges)
        self._attention = _of_attention(grid, measured.blocks, every=True)
        self._mlp = _of_mlp(grid, measured.blocks, every=True)
        self._last_tokens = Interpolation(("tokens",), {(n,): _value(measured.base, (image, n)) for n in grid.tokens})
        self._last_attention = _of_attention(grid, measured.lasts, every=False)
        self._last_mlp = _of_mlp(grid, measured.lasts, every=False)
        self._last_smallest = self._last_tokens(grid.smallest.tokens_in)
        sizes = zip(grid.image_sizes, grid.image_tokens, strict=True)
        self._rest = {
            size: _value(measured.base, (size, tokens)) - self._last_tokens(tokens) + self._last_smallest
            for size, tokens in sizes
        }
        """Each with the smallest last block of the source model's tokens."""

    def corrected(self, factors: Sequence[float]) -> MeasuredTable:
        """The table with each of PARTS multiplied by a factor, relative to what was measured."""
        other = copy.copy(self)
        other._factors = tuple(factors)
        return other

    def block(self, shape: BlockShape) -> float:
        return self._weighted(self._parts(shape, last=False))

    def last_block(self, shape: BlockShape, trimmed: bool) -> float:
        return self._weighted(self._parts(shape, last=True))

    def rest(self, image_size: int) -> float:
        return self._weighted(self._outside(image_size))

    def parts(self, shape: ModelShape) -> Parts:
        """Milliseconds of each part of a model, without corrections."""
        *blocks, last = shape.blocks
        rows = [self._parts(block, last=False) for block in blocks]
        rows += [self._parts(last, last=True), self._outside(shape.image_size)]
        rest, tokens, attention, mlp, end = (sum(column) for column in zip(*rows, strict=True))
        return rest, tokens, attention, mlp, end

    def _weighted(self, parts: Parts) -> float:
        return sum(factor * part for factor, part in zip(self._factors, parts, strict=True))

    def _outside(self, image_size: int) -> Parts:
        if image_size not in self._rest:
            raise BadInput(
                f"latencies were not measured for images of {image_size} pixels",
                f"measured sizes: {', '.join(map(str, self._rest))}",
            )
        return self._rest[image_size], 0.0, 0.0, 0.0, 0.0

    def _parts(self, shape: BlockShape, last: bool) -> Parts:
        key = (shape, last)
        if key not in self._cache:
            tokens, attention = shape.tokens_in, _attention_point(shape)
            if last:
                ends = self._last_attention(*attention) + self._last_mlp(tokens, shape.mlp)
                self._cache[key] = (0.0, 0.0, 0.0, 0.0, self._last_tokens(tokens) - self._last_smallest + ends)
            else:
                mlp = self._mlp(shape.tokens_out, shape.mlp)
                self._cache[key] = (0.0, self._smallest(shape), self._attention(*attention), mlp, 0.0)
        return self._cache[key]

    def _smallest(self, shape: BlockShape) -> float:
        """Milliseconds of the smallest block with the tokens of `shape`."""
        if shape.tokens_out == shape.tokens_in:
            return self._tokens(shape.tokens_in)
        if self._grid.matching is None:
            raise BadInput("latencies of blocks that merge tokens were not measured", "grid_of(..., matching=...)")
        return self._merging(*self._merge_point(shape))

    def _merge_point(self, shape: BlockShape) -> Point:
        """Tokens before the merge, and merged tokens from 0 (one) to 1 (as many as possible)."""
        fewest, most = self._grid.fewest_after(shape.tokens_in), shape.tokens_in - 1
        return shape.tokens_in, (most - shape.tokens_out) / max(1, most - fewest)


class Differences:
    """Milliseconds of probes after subtracting their references, which were measured interleaved with them."""

    def __init__(self, sessions: Sequence[ProbeSession], grid: Grid) -> None:
        self.base: dict[tuple[int, int], float] = {}
        """Models whose only block is the smallest last one, by image size and tokens."""
        self.smallest: dict[BlockShape, float] = {}
        """The smallest blocks, also those that merge tokens."""
        self.blocks: dict[BlockShape, float] = {grid.tiny(tokens): 0.0 for tokens in grid.tokens}
        """What a block takes longer than the smallest one with its tokens."""
        self.lasts = dict(self.blocks)
        """What a last block takes longer than the smallest one with its tokens."""
        for session in sessions:
            measured = {key_of(probe): probe for probe in session.probes}
            for probe in session.probes:
                self._add(probe, [measured.get(key_of(reference)) for reference in grid.references(key_of(probe))])

    def _add(self, probe: Probe, references: Sequence[Probe | None]) -> None:
        """Add a probe with its references; ignored if the session has none for this grid."""
        if None in references:
            return
        base, *tiny = (reference for reference in references if reference is not None) if references else (probe,)
        if probe == base:
            self.base[probe.image_size, probe.last.tokens_in] = median(probe.latency_ms)
        elif probe.block is None:
            self.lasts[probe.last] = max(0.0, _difference(probe, base))
        elif not tiny:
            self.smallest[probe.block] = _difference(probe, base) / probe.count
        else:
            longer = _difference(probe, base) / probe.count - _difference(tiny[0], base) / tiny[0].count
            self.blocks[probe.block] = max(0.0, longer)


def _difference(probe: Probe, reference: Probe) -> float:
    """Median difference of samples taken in the same round."""
    return median(slow - fast for slow, fast in zip(probe.latency_ms, reference.latency_ms, strict=True))


def _of_attention(grid: Grid, values: Mapping[BlockShape, float], every: bool) -> Interpolation:
    names = ("tokens", "heads", "qk of a head", "v of a head")
    points = {_attention_point(shape): _value(values, shape) for shape in grid.attentions(every)}
    return Interpolation(names, points)


def _attention_point(shape: BlockShape) -> Point:
    return shape.tokens_in, shape.heads, shape.qk / shape.heads, shape.v / shape.heads


def _of_mlp(grid: Grid, values: Mapping[BlockShape, float], every: bool) -> Interpolation:
    points: dict[Point, float] = {(shape.tokens_in, shape.mlp): _value(values, shape) for shape in grid.mlps(every)}
    return Interpolation(("tokens", "mlp"), points)


def _value(values: Mapping[Key, float], key: Key) -> float:
    if key not in values:
        raise InvalidMeasurement(f"the latency of {key} was not measured", "measure the table again")
    return values[key]
