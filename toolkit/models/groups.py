"""What can be removed from a model, and what must go with it.

A `Group` is a set of units of one kind at one place: the hidden units of an MLP, the heads of an attention, the
residual channels. Each unit lives in `Slice`s: positions along one dimension of one parameter. Scores are sums over
slices, costs are products of what is left of them, and surgery keeps the rest; none of the three knows architectures.

`dependency_graph` finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.errors import PlanError
from toolkit.records import Axis

Key = tuple[str, Axis]
"""Place and axis: the name of a group."""

Unit = tuple[Key, int]
"""One unit of a group."""

Scores = dict[Key, Tensor]
"""Importance of every unit of every group, [units] float64; higher is more important."""


@dataclass(frozen=True)
class Slice:
    """Positions along dimension `dim` of a parameter and the unit that each belongs to, both [positions] int64."""

    parameter: str
    dim: int
    positions: Tensor
    units: Tensor


@dataclass(frozen=True)
class Group:
    """Units of one kind at one place. `segments` are the sizes of the runs of units of which one must always stay:
    one run as a rule, one for each head along qk and v."""

    place: str
    axis: Axis
    segments: tuple[int, ...]
    slices: tuple[Slice, ...]

    @property
    def key(self) -> Key:
        return self.place, self.axis

    @property
    def units(self) -> int:
        return sum(self.segments)

    def members(self, segment: int | None = None) -> frozenset[Unit]:
        """All units, or those of one segment."""
        first = sum(self.segments[:segment]) if segment is not None else 0
        count = self.units if segment is None else self.segments[segment]
        return frozenset((self.key, unit) for unit in range(first, first + count))


class Groups:
    """All groups of one model, by place and axis."""

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        self._parameters = dict(model.named_parameters())
        self.by_key: Mapping[Key, Group] = {group.key: group for group in groups}

    def __iter__(self) -> Iterator[Group]:
        return iter(self.by_key.values())

    def along(self, axes: Sequence[Axis]) -> Groups:
        """Only the groups of these axes."""
        chosen = Groups.__new__(Groups)
        chosen._parameters = self._parameters
        chosen.by_key = {key: group for key, group in self.by_key.items() if group.axis in axes}
        return chosen

    def find(self, place: str, axis: Axis) -> Group:
        if (place, axis) not in self.by_key:
            raise PlanError(f"there is no axis {axis!r} at {place!r} in this model")
        return self.by_key[place, axis]

    def members(self) -> frozenset[Unit]:
        """Every unit of every group."""
        return frozenset(unit for group in self for unit in group.members())

    def size(self, parameter: str, dim: int) -> int:
        """Positions along a dimension of a parameter."""
        return self._parameters[parameter].shape[dim]

    def inside(self, unit: Unit) -> Iterator[Unit]:
        """Those of these units that go with this one: a head's queries, keys and values, everything in a block."""
        (place, axis), index = unit
        for group in self if axis in ("block", "head") else ():
            if axis == "block" and in_block(group.place, index):
                yield from group.members()
            elif axis == "head" and group.place == place and group.axis in ("qk", "v"):
                yield from group.members(index)

    def reduce(self, importance: Callable[[str, Tensor], Tensor]) -> Scores:
        """Sum an element-wise importance over each unit's coupled weights.

        `importance(name, parameter)` gives a tensor of the parameter's shape; it is asked once for each parameter.
        """
        slices: dict[str, list[tuple[Key, Slice]]] = {}
        for group in self:
            for piece in group.slices:
                slices.setdefault(piece.parameter, []).append((group.key, piece))
        scores = {group.key: torch.zeros(group.units, dtype=torch.float64) for group in self}
        for name, pieces in slices.items():
            values = importance(name, self._parameters[name].detach())
            for key, piece in pieces:
                others = [dim for dim in range(values.dim()) if dim != piece.dim]
                along = values.sum(dim=others) if others else values  # [size of dim]
                scores[key].index_add_(0, piece.units, along[piece.positions].double())
        return scores


def in_block(name: str, index: int) -> bool:
    """Whether the module or parameter of this name is part of the block."""
    return name.startswith(f"blocks.{index}.")
