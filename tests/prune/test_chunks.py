"""Chunks keep widths multiples of `round_to`, and leave units in every segment."""

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
def test_segments_keep_a_positive_multiple_of_round_to(segments: tuple[int, ...], round_to: int) -> None:
    scores = torch.rand(sum(segments), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chunks = chunks_of(group("qk", *segments), scores, round_to)
    first = 0
    for segment, size in enumerate(segments):
        segment_chunks = [chunk for chunk in chunks if chunk.segment == segment]
        remaining = size
        for chunk in segment_chunks:
            assert all(first <= unit < first + size for unit in chunk.units)
            remaining -= len(chunk.units)
            assert remaining >= round_to
            assert remaining % round_to == 0
        assert [chunk.score for chunk in segment_chunks] == sorted(chunk.score for chunk in segment_chunks)
        assert remaining == (round_to if size > round_to else size)
        first += size


def test_the_least_important_units_come_first() -> None:
    chunks = chunks_of(group("mlp", 6), torch.tensor([5.0, 1.0, 4.0, 0.0, 3.0, 2.0]), 2)
    assert [(chunk.units, chunk.score) for chunk in chunks] == [((3, 1), 0.5), ((5, 4), 2.5)]


@pytest.mark.parametrize("axis", ["head", "block"])
def test_heads_and_blocks_are_removed_one_at_a_time(axis: Axis) -> None:
    chunks = chunks_of(group(axis, 3), torch.tensor([3.0, 1.0, 2.0]), 8)
    assert [chunk.units for chunk in chunks] == [(1,), (2,)]


def test_removed_units_are_in_no_chunk() -> None:
    """4 units of the first segment and all of the second are removed; the rest of the first is split into chunks."""
    qk = group("qk", 8, 5)
    removed = {(qk.key, unit) for unit in (0, 1, 4, 5, *range(8, 13))}
    scores = torch.tensor([torch.nan if (qk.key, unit) in removed else float(unit) for unit in range(13)])
    assert [(chunk.segment, chunk.units) for chunk in chunks_of(qk, scores, 2, removed)] == [(0, (2, 3))]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_scores_are_an_error(value: float) -> None:
    with pytest.raises(CheckFailed, match="mlp at 'somewhere' are not finite"):
        chunks_of(group("mlp", 3), torch.tensor([1.0, value, 2.0]), 1)


def test_cuts_combine_the_units_of_a_group() -> None:
    groups = Groups(torch.nn.Identity(), [group("qk", 4), group("mlp", 4)])
    qk: Key = ("somewhere", "qk")
    mlp: Key = ("somewhere", "mlp")
    cuts = cuts_of([(mlp, 3), (qk, 2), (mlp, 0)], groups)
    assert cuts == (Cut("somewhere", "qk", (2,)), Cut("somewhere", "mlp", (0, 3)))
