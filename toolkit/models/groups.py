"""Prunable units of a model, and the parameters that each unit is coupled to.

A `Group` holds the units of one axis at one place: the hidden units of an MLP, the heads of an attention, the residual
channels. A unit covers `Slice`s: indices along one dimension of one parameter. Scores, costs and surgery work on slices
alone and are independent of the architecture. `dependency_graph` finds the groups.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.errors import PlanError
from toolkit.models.block import block_of, named_blocks
from toolkit.models.norms import NORMS, Norm
from toolkit.records import Axis

Key = tuple[str, Axis]
"""Place and axis, which identify a group."""

RESIDUAL: Key = ("residual", "embed")
"""Key of the residual channels."""

BLOCKS: Key = ("blocks", "block")
"""Key of the blocks."""

Unit = tuple[Key, int]
"""A group's key and the index of a unit in it."""

Scores = dict[Key, Tensor]
"""Importance per unit, [units] float64 for each group; higher is more important."""


@dataclass(frozen=True)
class Slice:
    """Indices along dimension `dim` of a parameter (`positions`) and the unit of each, both [positions] int64."""

    parameter: str
    dim: int
    positions: Tensor
    units: Tensor


@dataclass(frozen=True)
class Group:
    """Units of one axis at one place.

    `segments` are the sizes of consecutive runs of units that each must keep a unit: one run per head along qk and v,
    otherwise a single run.
    """

    place: str
    axis: Axis
    segments: tuple[int, ...]
    slices: tuple[Slice, ...]
    indivisible: bool = False
    """Whether units are only removed with their head."""

    @property
    def key(self) -> Key:
        return self.place, self.axis

    @property
    def units(self) -> int:
        return sum(self.segments)

    def norms(self, module: nn.Module) -> dict[str, Norm]:
        """Norms over these units by name, in a model at full width: those whose gain has a slice, or that have none."""
        own = {piece.parameter for piece in self.slices}
        norms = ((name, part) for name, part in module.named_modules() if isinstance(part, NORMS))
        return {name: part for name, part in norms if part.weight is None or f"{name}.weight" in own}

    def members(self, segment: int | None = None) -> frozenset[Unit]:
        """All units, or those of one segment."""
        first = sum(self.segments[:segment]) if segment is not None else 0
        count = self.units if segment is None else self.segments[segment]
        return frozenset((self.key, unit) for unit in range(first, first + count))


class Groups:
    """All groups of one model, by place and axis."""

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        self._parameters = dict(model.named_parameters())
        self.blocks = tuple(named_blocks(model))
        """Names of all blocks, in order."""
        self.by_key: Mapping[Key, Group] = {group.key: group for group in groups}

    def __iter__(self) -> Iterator[Group]:
        return iter(self.by_key.values())

    def along(self, axes: Sequence[Axis]) -> Groups:
        """The subset of groups along these axes whose units can be removed one by one."""
        subset = copy.copy(self)
        subset.by_key = {
            key: group for key, group in self.by_key.items() if group.axis in axes and not group.indivisible
        }
        return subset

    def find(self, place: str, axis: Axis) -> Group:
        if (place, axis) not in self.by_key:
            raise PlanError(f"there is no axis {axis!r} at {place!r} in this model")
        return self.by_key[place, axis]

    def members(self) -> frozenset[Unit]:
        """All units of all groups."""
        return frozenset(unit for group in self for unit in group.members())

    def size(self, parameter: str, dim: int) -> int:
        """Size of a parameter along a dimension."""
        return self._parameters[parameter].shape[dim]

    def contained_units(self, unit: Unit) -> Iterator[Unit]:
        """Units that are removed with this one: a head's qk and v units, or all units in a block."""
        (place, axis), index = unit
        for group in self if axis in ("block", "head") else ():
            if axis == "block" and block_of(group.place, self.blocks) == index:
                yield from group.members()
            elif axis == "head" and group.place == place and group.axis in ("qk", "v"):
                yield from group.members(index)

    def reduce(self, importance: Callable[[str, Tensor], Tensor]) -> Scores:
        """Sum an element-wise importance over each unit's coupled weights.

        `importance(name, parameter)` returns a tensor of the parameter's shape, and is called once per parameter.
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
