"""The search space: for each block, widths from its ladders; for the model, merges of tokens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from toolkit.models.groups import Key
from toolkit.models.model import Model
from toolkit.prune.cost_table import CostTable, ModelShape, shape_of, total
from toolkit.prune.ladders import Ladder
from toolkit.prune.search.knapsack import Options, choose
from toolkit.prune.search.schedule import Tokens, tokens_after
from toolkit.records import Axis, BlockShape, Cut, Merge

AXES: tuple[Axis, ...] = ("qk", "v", "mlp")
"""Axes that can be searched."""
Kept: TypeAlias = Mapping[Key, int]
"""Number of units kept in each group; those that are missing keep all."""
Weights: TypeAlias = Mapping[Key, float]
"""For each group, what its ladder's relative error is multiplied by."""


def narrowest(model: Model, axes: Sequence[Axis], round_to: int) -> Kept:
    """The fewest units of each group, as on the last rungs of its ladder; of a model on any device."""
    groups = model.groups.along(axes)
    return {group.key: sum(min(width, round_to) for width in group.segments) for group in groups}


@dataclass(frozen=True)
class Choice:
    """A point of the search space."""

    merges: tuple[Merge, ...]
    kept: tuple[tuple[Key, int], ...]

    def cuts(self, ladders: Mapping[Key, Ladder]) -> tuple[Cut, ...]:
        """The cuts that leave these units."""
        rungs = ((ladders[key], ladders[key].rung(kept)) for key, kept in self.kept)
        return tuple(ladder.cut(rung) for ladder, rung in rungs if rung.removed)


@dataclass(frozen=True)
class Space:
    """Choices for a model, whose units are in the basis of its ladders, and what they cost."""

    model: Model
    ladders: Mapping[Key, Ladder]
    tokens: Tokens
    table: CostTable
    trim: bool
    """Whether the last block computes only the tokens that the classifier reads."""

    def cost(self, merges: Sequence[Merge], kept: Kept) -> float:
        """Cost of the whole model."""
        return total(self.table, self.shape(merges, kept))

    def shape(self, merges: Sequence[Merge], kept: Kept) -> ModelShape:
        """Sizes of the model."""
        after = tokens_after(merges, self.tokens)
        blocks = tuple(
            self._block(index, before, left, kept)
            for index, (before, left) in enumerate(itertools.pairwise([self.tokens.total, *after]))
        )
        return ModelShape(blocks, self.model.info.image_size, self.trim)

    def allocate(self, merges: Sequence[Merge], weights: Weights, limit: float) -> Choice | None:
        """The widths of the smallest weighted error with these merges; None if none are cheap enough."""
        widest = self.shape(merges, {}).blocks
        modules: list[Options] = []
        widths: list[list[dict[Key, int]]] = []
        for index, shape in enumerate(widest):
            for keys in self._keys[index]:
                ladders = [self.ladders[key] for key in keys]
                rungs = [*itertools.product(*(ladder.rungs for ladder in ladders))]
                kept = [{key: sum(rung.widths) for key, rung in zip(keys, row, strict=True)} for row in rungs]
                costs = [self._cost(index, self._resized(shape, index, row)) for row in kept]
                errors = [
                    sum(weights[key] * rung.relative for key, rung in zip(keys, row, strict=True)) for row in rungs
                ]
                modules.append(Options(np.array(costs) - self._cost(index, shape), np.array(errors)))
                widths.append(kept)
        chosen = choose(modules, limit - self.cost(merges, {}))
        if chosen is None:
            return None
        picked = [options[index] for options, index in zip(widths, chosen, strict=True)]
        return Choice(tuple(merges), tuple(item for row in picked for item in row.items()))

    @cached_property
    def _keys(self) -> list[list[tuple[Key, ...]]]:
        """For each block, the groups of each module whose cost depends on them together: attention and MLP."""
        result: list[list[tuple[Key, ...]]] = []
        for name in self._names:
            attention: tuple[Key, ...] = ((f"{name}.attn", "qk"), (f"{name}.attn", "v"))
            mlp: tuple[Key, ...] = ((f"{name}.mlp", "mlp"),)
            found = (tuple(key for key in keys if key in self.ladders) for keys in (attention, mlp))
            result.append([keys for keys in found if keys])
        return result

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.model.blocks)

    @cached_property
    def _dense(self) -> ModelShape:
        return shape_of(self.model)

    def _block(self, index: int, before: int, after: int, kept: Kept) -> BlockShape:
        shape = replace(self._dense.blocks[index], tokens_in=before, tokens_out=after)
        return self._resized(shape, index, kept)

    def _resized(self, shape: BlockShape, index: int, kept: Kept) -> BlockShape:
        name = self._names[index]
        return replace(
            shape,
            qk=kept.get((f"{name}.attn", "qk"), shape.qk),
            v=kept.get((f"{name}.attn", "v"), shape.v),
            mlp=kept.get((f"{name}.mlp", "mlp"), shape.mlp),
        )

    def _cost(self, index: int, shape: BlockShape) -> float:
        if index == len(self._names) - 1:
            return self.table.last_block(shape, self.trim)
        return self.table.block(shape)
