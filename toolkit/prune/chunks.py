"""The smallest cuts that may be made: single heads and blocks, and as many units as keep widths round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.errors import CheckFailed
from toolkit.models.groups import Group, Groups, Key, Unit
from toolkit.models.selection import min_units
from toolkit.records import Axis, Cut

WHOLE = ("block", "head")
"""Axes whose units are removed one at a time, whatever widths are rounded to; the coarser first."""


def coarseness(axis: Axis) -> int:
    """Low for what takes other units along: blocks, then heads, then all that takes none."""
    return WHOLE.index(axis) if axis in WHOLE else len(WHOLE)


@dataclass(frozen=True)
class Chunk:
    """Units removed together. A segment's chunks come least important first, and are removed in that order only."""

    key: Key
    segment: int
    units: tuple[int, ...]
    score: float
    """Mean importance of the units."""

    @property
    def members(self) -> frozenset[Unit]:
        return frozenset((self.key, unit) for unit in self.units)


def chunks_of(group: Group, scores: Tensor, round_to: int, gone: Set[Unit] = frozenset()) -> list[Chunk]:
    """All chunks of what is not yet gone of a group. What is left of a segment is a multiple of `round_to` and never
    nothing.

    A segment that is not wider than `round_to` has no chunk; one of odd width is first brought to a multiple.
    """
    living = torch.tensor([(group.key, unit) not in gone for unit in range(group.units)], dtype=torch.bool)
    if not bool(torch.isfinite(scores[living]).all()):
        raise CheckFailed(f"the criterion's scores for {group.axis} at {group.place!r} are not finite")
    step = 1 if group.axis in WHOLE else round_to
    chunks = []
    for segment, span in enumerate(torch.arange(group.units).split(group.segments)):
        units = span[living[span]]
        ascending = units[torch.argsort(scores[units], stable=True)].tolist()
        start, size = 0, len(units) % step or step
        while start + size <= len(units) - max(step, min_units(group.axis)):
            part = ascending[start : start + size]
            chunks.append(Chunk(group.key, segment, tuple(part), float(scores[part].mean())))
            start, size = start + size, step
    return chunks


def cuts_of(removed: Iterable[Unit], groups: Groups) -> tuple[Cut, ...]:
    """These units as cuts, one for each place and axis, in the model's order."""
    units: dict[Key, list[int]] = defaultdict(list)
    for key, unit in removed:
        units[key].append(unit)
    return tuple(
        Cut(group.place, group.axis, tuple(sorted(units[group.key]))) for group in groups if group.key in units
    )
