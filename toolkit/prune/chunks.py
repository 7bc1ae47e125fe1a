"""Chunks: the smallest cuts, which are single heads and blocks, and otherwise as many units as keep widths round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from toolkit.errors import CheckFailed
from toolkit.models.groups import Group, Groups, Key, Unit
from toolkit.models.selection import min_units
from toolkit.records import Axis, Cut

UNROUNDED = ("block", "head")
"""Axes whose units are removed one at a time, regardless of `round_to`; coarsest first."""


def coarseness(axis: Axis) -> int:
    """Sort key of axes, coarsest first: blocks, then heads, then the axes whose units contain no others."""
    return UNROUNDED.index(axis) if axis in UNROUNDED else len(UNROUNDED)


@dataclass(frozen=True)
class Chunk:
    """Units that are removed together. A segment's chunks are sorted by importance, and removed in that order only."""

    key: Key
    segment: int
    units: tuple[int, ...]
    score: float
    """Mean importance of the units."""

    @property
    def members(self) -> frozenset[Unit]:
        return frozenset((self.key, unit) for unit in self.units)


@dataclass(frozen=True)
class Pool:
    """Chunks that compete with each other, least important first, and all units of the layers they come from."""

    name: str
    chunks: Sequence[Chunk]
    members: frozenset[Unit]


Pools: TypeAlias = Sequence[Pool]


def chunks_of(group: Group, scores: Tensor, round_to: int, removed: Set[Unit] = frozenset()) -> list[Chunk]:
    """Removable chunks of the group's remaining units. Each segment keeps a positive multiple of `round_to` units.

    A segment of at most `round_to` units has no chunks. If its width is not a multiple, its first chunk makes it one.
    `scores`: [units]; raises CheckFailed if a score of a remaining unit is not finite.
    """
    gone = [unit for key, unit in removed if key == group.key]
    remaining = torch.ones(group.units, dtype=torch.bool)
    remaining[gone] = False
    if not bool(torch.isfinite(scores[remaining]).all()):
        raise CheckFailed(f"the criterion's scores for {group.axis} at {group.place!r} are not finite")
    step = 1 if group.axis in UNROUNDED else round_to
    chunks = []
    for segment, span in enumerate(torch.arange(group.units).split(group.segments)):
        units = span[remaining[span]]
        units = units[torch.argsort(scores[units], stable=True)]
        ascending, values = units.tolist(), scores[units].tolist()
        start, size = 0, len(units) % step or step
        while start + size <= len(units) - max(step, min_units(group.axis)):
            end = start + size
            chunks.append(Chunk(group.key, segment, tuple(ascending[start:end]), sum(values[start:end]) / size))
            start, size = end, step
    return chunks


def cuts_of(removed: Iterable[Unit], groups: Groups) -> tuple[Cut, ...]:
    """The units as cuts: one per place and axis, in the order of the model."""
    units: dict[Key, list[int]] = defaultdict(list)
    for key, unit in removed:
        units[key].append(unit)
    return tuple(
        Cut(group.place, group.axis, tuple(sorted(units[group.key]))) for group in groups if group.key in units
    )
