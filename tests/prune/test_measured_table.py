"""Grids, and measured tables against a known function."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import pytest

from toolkit.errors import BadInput, InvalidMeasurement
from toolkit.models.model import Model
from toolkit.prune.cost_table import ModelShape, shape_of, total
from toolkit.prune.grid import Grid, grid_of, key_of
from toolkit.prune.measured_table import Interpolation, MeasuredTable
from toolkit.records import BlockShape, LatencyTable


class KnownLatencies(Protocol):
    """The fixture `known`."""

    def record(self, grid: Grid) -> LatencyTable: ...

    def whole_ms(self, shape: ModelShape) -> float: ...


@pytest.fixture(scope="module")
def model(small: Callable[..., Model]) -> Model:
    """17 tokens, 3 heads of 8, 48 hidden units, 4 blocks."""
    settings = {"embed_dim": 48, "patch_size": 4}
    return small(depth=4, **settings)


def test_interpolation_is_multilinear_and_exact_at_its_points() -> None:
    generator = random.Random(0)
    levels = ((1.0, 2.0, 5.0), (0.0, 4.0))
    values = {point: generator.random() for point in itertools.product(*levels)}
    table = Interpolation(("a", "b"), values)
    assert all(table(*point) == value for point, value in values.items())
    expected = (values[2.0, 0.0] * 0.75 + values[5.0, 0.0] * 0.25) * 0.5
    expected += (values[2.0, 4.0] * 0.75 + values[5.0, 4.0] * 0.25) * 0.5
    assert table(2.75, 2.0) == pytest.approx(expected)


@pytest.mark.parametrize("at", [(0.9, 0), (5.1, 0), (1, -1), (1, 4.5), (float("nan"), 0)])
def test_nothing_is_extrapolated(at: tuple[float, float]) -> None:
    table = Interpolation(("tokens", "mlp"), dict.fromkeys(itertools.product((1.0, 5.0), (0.0, 4.0)), 0.0))
    with pytest.raises(BadInput, match=r"latencies were measured for (tokens 1 to 5|mlp 0 to 4), not for"):
        table(*at)


def test_a_table_predicts_a_function_that_is_linear_in_every_size(model: Model, known: KnownLatencies) -> None:
    grid = grid_of(model, ("head", "qk", "v", "mlp"), matching="bipartite", image_sizes=(12,))
    table, generator = MeasuredTable(known.record(grid), grid), random.Random(1)
    for _ in range(20):
        blocks = []
        tokens = 17
        for _ in range(4):
            after = generator.choice((tokens, generator.randint(grid.fewest_after(tokens), tokens)))
            after = tokens if after < grid.tokens[0] else after
            heads, qk, v = generator.randint(1, 3), generator.randint(8, 16), generator.randint(8, 16)
            blocks.append(BlockShape(tokens, after, heads, heads * qk, heads * v, generator.randint(8, 96)))
            tokens = after
        blocks[-1] = replace(blocks[-1], tokens_out=blocks[-1].tokens_in)
        shape = ModelShape(tuple(blocks), generator.choice((12, 16)))
        # Half of the patches are rounded, so that the fewest tokens after a merge are not linear in the tokens.
        assert total(table, shape) == pytest.approx(known.whole_ms(shape), rel=1e-3)
        assert sum(table.parts(shape)) == pytest.approx(total(table, shape))
    assert total(table, shape_of(model)) == pytest.approx(known.whole_ms(shape_of(model)))


def test_corrections_multiply_parts(model: Model, known: KnownLatencies) -> None:
    grid = grid_of(model, ("mlp",))
    table, shape = MeasuredTable(known.record(grid), grid), shape_of(model)
    before, parts = total(table, shape), table.parts(shape)
    factors = (1.1, 0.9, 1.2, 1.3, 0.8)
    corrected = table.corrected(factors)
    assert total(corrected, shape) == pytest.approx(sum(f * part for f, part in zip(factors, parts, strict=True)))
    assert total(table, shape) == before, "the table itself is unchanged"


def test_a_grid_has_only_the_axes_that_are_cut(model: Model, known: KnownLatencies) -> None:
    grid = grid_of(model, ("mlp",))
    assert (grid.tokens, grid.heads, grid.qk, grid.v, grid.mlp) == ((17,), (3,), (16,), (16,), (8, 48, 96))
    assert len(grid.probes()) == 7
    finer = grid.refined(mlp=(20, 48))
    assert finer.mlp == (8, 20, 48, 96)
    dense = shape_of(model)
    table = MeasuredTable(known.record(finer), grid)
    assert total(table, dense) == pytest.approx(known.whole_ms(dense)), "the record may have more points than the grid"
    with pytest.raises(InvalidMeasurement, match="was not measured"):
        MeasuredTable(known.record(grid), finer)
    with pytest.raises(BadInput, match="for qk of a head 16 only, not for 8"):
        table.block(replace(dense.blocks[0], qk=24))


def test_outside_of_a_grid(model: Model, known: KnownLatencies) -> None:
    grid = grid_of(model, ("mlp",))
    table, block = MeasuredTable(known.record(grid), grid), shape_of(model).blocks[0]
    with pytest.raises(BadInput, match="images of 12 pixels"):
        table.rest(12)
    with pytest.raises(BadInput, match="for mlp 8 to 96, not for 4"):
        table.block(replace(block, mlp=4))
    with pytest.raises(BadInput, match="at most 16 pixels, not 20"):
        grid_of(model, ("mlp",), image_sizes=(20,))


def test_references_have_the_same_tokens_and_widths_of_the_smallest_block(model: Model) -> None:
    grid = grid_of(model, ("qk", "mlp"), matching="bipartite", image_sizes=(12,))
    assert grid.tokens == (3, 8, 17)
    probes = grid.probes()
    assert len(probes) == len(set(probes))
    for probe in probes:
        base, *tiny = grid.references(key_of(probe)) or [key_of(probe)]
        assert (base.block, base.last, base.image_size) == (None, grid.tiny(probe.last.tokens_in), probe.image_size)
        assert base.sized == (probe.last.tokens_in < 17 and probe.image_size == 16)
        for reference in tiny:
            assert reference.block == grid.tiny(probe.last.tokens_in)
            assert grid.references(key_of(reference)) == [base]
    merges = [probe.block for probe in probes if probe.block and probe.block.tokens_out < probe.block.tokens_in]
    assert [(block.tokens_in, block.tokens_out) for block in merges] == [(3, 2), (8, 4), (8, 7), (17, 9), (17, 16)]
