"""Chunks keep widths round and leave something of every run of units."""

from __future__ import annotations

import pytest
import torch

from toolkit.errors import CheckFailed
from toolkit.models.groups import Group, Groups, Key
from toolkit.prune.chunks import chunks_of, cuts_of
from toolkit.records import Axis, Cut


def group(axis: Axis, *segments: int) -> Group:
    return Group("somewhere", axis, segments, ())


@pytest.mark.parametrize("round_to", [1, 3, 8])
@pytest.mark.parametrize("segments", [(24,), (8, 8), (5, 13, 1), (7,)])
def test_what_is_left_is_round_and_never_nothing(segments: tuple[int, ...], round_to: int) -> None:
    scores = torch.rand(sum(segments), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chunks = chunks_of(group("qk", *segments), scores, round_to)
    first = 0
    for segment, size in enumerate(segments):
        own = [chunk for chunk in chunks if chunk.segment == segment]
        left = size
        for chunk in own:
            assert all(first <= unit < first + size for unit in chunk.units)
            left -= len(chunk.units)
            assert left >= round_to
            assert left % round_to == 0
        assert [chunk.score for chunk in own] == sorted(chunk.score for chunk in own)
        assert left == (round_to if size > round_to else size)
        first += size


def test_least_important_first() -> None:
    chunks = chunks_of(group("mlp", 6), torch.tensor([5.0, 1.0, 4.0, 0.0, 3.0, 2.0]), 2)
    assert [(chunk.units, chunk.score) for chunk in chunks] == [((3, 1), 0.5), ((5, 4), 2.5)]


@pytest.mark.parametrize("axis", ["head", "block"])
def test_heads_and_blocks_go_singly(axis: Axis) -> None:
    chunks = chunks_of(group(axis, 3), torch.tensor([3.0, 1.0, 2.0]), 8)
    assert [chunk.units for chunk in chunks] == [(1,), (2,)]


def test_what_is_gone_is_in_no_chunk() -> None:
    """Of 13 units in two segments 4 and then all of the second have gone; what is left of the first is cut on."""
    some = group("qk", 8, 5)
    gone = {(some.key, unit) for unit in (0, 1, 4, 5, *range(8, 13))}
    scores = torch.tensor([torch.nan if (some.key, unit) in gone else float(unit) for unit in range(13)])
    assert [(chunk.segment, chunk.units) for chunk in chunks_of(some, scores, 2, gone)] == [(0, (2, 3))]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers(value: float) -> None:
    with pytest.raises(CheckFailed, match="mlp at 'somewhere' are not finite"):
        chunks_of(group("mlp", 3), torch.tensor([1.0, value, 2.0]), 1)


def test_cuts_gather_the_units_of_a_place() -> None:
    groups = Groups(torch.nn.Identity(), [group("qk", 4), group("mlp", 4)])
    qk: Key = ("somewhere", "qk")
    mlp: Key = ("somewhere", "mlp")
    cuts = cuts_of([(mlp, 3), (qk, 2), (mlp, 0)], groups)
    assert cuts == (Cut("somewhere", "qk", (2,)), Cut("somewhere", "mlp", (0, 3)))
