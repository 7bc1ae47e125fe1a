"""Units that a plan removes and keeps, and the order of the kept heads.

Removing a head or a block includes the units in it. Kept heads are sorted by width, widest first, so that heads of
equal width are adjacent and each run of equal heads can be computed as one ordinary attention.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from toolkit.errors import PlanError
from toolkit.models.block import block_of
from toolkit.models.groups import BLOCKS, Group, Groups, Key
from toolkit.records import Axis, Cut, HeadLayout


def min_units(axis: Axis) -> int:
    """Minimum number of units to keep. A layer norm over a single residual channel would be constant."""
    return 2 if axis == "embed" else 1


class Selection:
    """Removed and kept units of each group after a list of cuts, and the new head layouts."""

    def __init__(self, groups: Groups, cuts: Iterable[Cut]) -> None:
        self.groups = groups
        self.removed: dict[Key, Tensor] = {group.key: torch.zeros(group.units, dtype=torch.bool) for group in groups}
        """[units] bool for each group, True where removed."""
        for cut in cuts:
            self._mark(cut)
        if not any(bool(mask.any()) for mask in self.removed.values()):
            raise PlanError("the plan removes nothing")
        blocks = self.removed.get(BLOCKS, torch.zeros(0, dtype=torch.bool))
        self.removed_blocks: tuple[int, ...] = tuple(int(index) for index in blocks.nonzero().flatten())
        for group in groups:
            if group.axis == "head" and not self.in_removed_block(group.place):
                self._remove_head_units(group)
        for group in groups:
            self._check_min_units(group)

    def in_removed_block(self, name: str) -> bool:
        """Whether the module or parameter of this name is in a removed block."""
        return block_of(name, self.groups.blocks) in self.removed_blocks

    def layout(self, place: str) -> HeadLayout:
        """Head layout of the attention at `place` after the removal."""
        widths = self._head_widths(place)
        return HeadLayout(tuple(widths[head] for head in self.kept(place)["head"].tolist()))

    def kept_units(self, group: Group) -> Tensor:
        """[kept units] int64: indices of a group's kept units, in their new order."""
        if group.axis in ("head", "qk", "v"):
            return self.kept(group.place)[group.axis]
        return (~self.removed[group.key]).nonzero().flatten()

    def kept(self, place: str) -> dict[str, Tensor]:
        """Indices of an attention's kept units along head, qk and v, in their new order."""
        widths = self._head_widths(place)
        kept_heads = ~self.removed[place, "head"]
        heads = kept_heads.nonzero().flatten().tolist()
        order = sorted(heads, key=lambda head: (-widths[head][0], -widths[head][1], head))
        result = {"head": torch.tensor(order)}
        for axis in ("qk", "v"):
            group = self.groups.find(place, axis)
            runs = torch.arange(group.units).split(group.segments)
            kept = ~self.removed[group.key]
            result[axis] = torch.cat([runs[head][kept[runs[head]]] for head in order])
        return result

    def _mark(self, cut: Cut) -> None:
        group = self.groups.find(cut.place, cut.axis)
        if group.indivisible:
            raise PlanError(
                f"the queries and keys of {cut.place!r} are normalised, so that only whole heads can be removed"
            )
        if not cut.units:
            raise PlanError(f"the cut of {cut.axis} at {cut.place!r} lists no units")
        if len(set(cut.units)) < len(cut.units):
            raise PlanError(f"the cut of {cut.axis} at {cut.place!r} lists a unit twice")
        if min(cut.units) < 0 or max(cut.units) >= group.units:
            raise PlanError(f"{cut.place!r} has only units 0 to {group.units - 1} along {cut.axis}")
        if bool(self.removed[group.key].any()):
            raise PlanError(f"the plan cuts {cut.axis} at {cut.place!r} twice", "list all its units in one cut")
        self.removed[group.key][list(cut.units)] = True

    def _remove_head_units(self, heads: Group) -> None:
        """Mark the qk and v units of removed heads; PlanError if another head would lose all units of an axis."""
        removed = self.removed[heads.key]
        for axis in ("qk", "v"):
            group = self.groups.find(heads.place, axis)
            for head, run in enumerate(torch.arange(group.units).split(group.segments)):
                if removed[head]:
                    self.removed[group.key][run] = True
                elif bool(self.removed[group.key][run].all()):
                    raise PlanError(f"head {head} of {heads.place} would keep no {axis} unit; remove the head instead")

    def _check_min_units(self, group: Group) -> None:
        kept, minimum = int((~self.removed[group.key]).sum()), min_units(group.axis)
        if kept < minimum and not self.in_removed_block(group.place):
            raise PlanError(f"{group.place!r} would keep {kept} units along {group.axis}; the minimum is {minimum}")

    def _head_widths(self, place: str) -> list[tuple[int, int]]:
        def widths(axis: Axis) -> list[int]:
            group = self.groups.find(place, axis)
            return [int(run.sum()) for run in (~self.removed[group.key]).split(group.segments)]

        return list(zip(widths("qk"), widths("v"), strict=True))
