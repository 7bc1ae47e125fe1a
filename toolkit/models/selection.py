"""Which units of a model stay when the cuts of a plan are made, and in which order.

A cut inside a removed head, or inside a removed block, is already made by that removal. Heads of equal width end up
side by side, widest first, so that each run of equal heads can be one ordinary attention.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from toolkit.errors import PlanError
from toolkit.models.groups import Group, Groups, Key, in_block
from toolkit.records import Axis, Cut, HeadLayout


def fewest_units(axis: Axis) -> int:
    """How many units always stay. A layer norm over a single residual channel would be constant."""
    return 2 if axis == "embed" else 1


class Selection:
    """The outcome of a list of cuts: units removed and units kept of every group, and the new head layouts."""

    def __init__(self, groups: Groups, cuts: Iterable[Cut]) -> None:
        self.groups = groups
        self.removed: dict[Key, Tensor] = {group.key: torch.zeros(group.units, dtype=torch.bool) for group in groups}
        """[units] bool for each group."""
        for cut in cuts:
            self._mark(cut)
        if not any(bool(mask.any()) for mask in self.removed.values()):
            raise PlanError("the plan removes nothing")
        blocks = self.removed.get(("blocks", "block"), torch.zeros(0, dtype=torch.bool))
        self.removed_blocks: tuple[int, ...] = tuple(int(index) for index in blocks.nonzero().flatten())
        for group in groups:
            if group.axis == "head" and not self.in_removed_block(group.place):
                self._close_heads(group)
        for group in groups:
            self._check_something_stays(group)

    def in_removed_block(self, name: str) -> bool:
        """Whether the module or parameter of this name goes with a removed block."""
        return any(in_block(name, index) for index in self.removed_blocks)

    def layout(self, place: str) -> HeadLayout:
        """Heads of the attention at `place` after the cut, in their new order."""
        widths = self._head_widths(place)
        return HeadLayout(tuple(widths[head] for head in self.kept(place)["head"].tolist()))

    def kept_units(self, group: Group) -> Tensor:
        """[kept units] int64: the units of a group that stay, in their new order."""
        if group.axis in ("head", "qk", "v"):
            return self.kept(group.place)[group.axis]
        return (~self.removed[group.key]).nonzero().flatten()

    def kept(self, place: str) -> dict[str, Tensor]:
        """The units of one attention that stay, along head, qk and v, in their new order."""
        widths = self._head_widths(place)
        stays = ~self.removed[place, "head"]
        order = sorted(stays.nonzero().flatten().tolist(), key=lambda head: (-widths[head][0], -widths[head][1], head))
        result = {"head": torch.tensor(order)}
        for axis in ("qk", "v"):
            group = self.groups.find(place, axis)
            runs = torch.arange(group.units).split(group.segments)
            keeps = ~self.removed[group.key]
            result[axis] = torch.cat([runs[head][keeps[runs[head]]] for head in order])
        return result

    def _mark(self, cut: Cut) -> None:
        group = self.groups.find(cut.place, cut.axis)
        if not cut.units:
            raise PlanError(f"the cut of {cut.axis} at {cut.place!r} lists no unit")
        if len(set(cut.units)) < len(cut.units):
            raise PlanError(f"the cut of {cut.axis} at {cut.place!r} lists a unit twice")
        if min(cut.units) < 0 or max(cut.units) >= group.units:
            raise PlanError(f"{cut.place!r} has units 0 to {group.units - 1} along {cut.axis}; the plan cuts others")
        if bool(self.removed[group.key].any()):
            raise PlanError(f"the plan cuts {cut.axis} at {cut.place!r} twice", "put all its units into one cut")
        self.removed[group.key][list(cut.units)] = True

    def _close_heads(self, heads: Group) -> None:
        """A removed head takes its units along; a head that would keep none of a kind must be cut as a head."""
        gone = self.removed[heads.key]
        for axis in ("qk", "v"):
            group = self.groups.find(heads.place, axis)
            for head, run in enumerate(torch.arange(group.units).split(group.segments)):
                if gone[head]:
                    self.removed[group.key][run] = True
                elif bool(self.removed[group.key][run].all()):
                    raise PlanError(f"head {head} of {heads.place} would keep no {axis} unit; cut the head instead")

    def _check_something_stays(self, group: Group) -> None:
        stay, fewest = int((~self.removed[group.key]).sum()), fewest_units(group.axis)
        if stay < fewest and not self.in_removed_block(group.place):
            raise PlanError(f"{stay} units would stay along {group.axis} at {group.place!r}; at least {fewest} must")

    def _head_widths(self, place: str) -> list[tuple[int, int]]:
        def widths(axis: Axis) -> list[int]:
            group = self.groups.find(place, axis)
            return [int(run.sum()) for run in (~self.removed[group.key]).split(group.segments)]

        return list(zip(widths("qk"), widths("v"), strict=True))
