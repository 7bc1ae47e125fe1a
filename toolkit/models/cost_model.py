"""Predict parameters and MACs after pruning, without building the pruned model.

A weight has as many parameters as the product of its remaining dimensions, and as many MACs as that product times the
positions it is applied to. QK^T and PV cost queries * keys MACs per query channel and per value channel. `surgery`
compares the prediction with the pruned model.

Tokens are merged after a block's attention: its MLP and the attention of the next block have fewer tokens. In a trimmed
last block, only some tokens are queries, and only these have a value after attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toolkit.models.block import attentions, named_blocks
from toolkit.models.groups import Group, Groups, Key, Unit
from toolkit.models.merge import merge_macs
from toolkit.models.pooling import AttentionPool
from toolkit.models.profile import Cost, LayerCall

Positions = npt.NDArray[np.int64]


class _ByChannel(NamedTuple):
    """MACs besides those of weights: `macs` for each remaining cell, times the number of remaining `width` cells."""

    cells: Positions
    macs: int
    width: Positions | None = None


class CostModel:
    """Cost of a model after the removal of any set of units.

    Each index along each dimension of each parameter is a cell of one flat array; a unit is a set of cells. A removal
    is the union of its units' cells, so overlapping units (a head and its channels, a block and its layers) are not
    counted twice.
    """

    def __init__(self, model: nn.Module, groups: Groups, calls: Mapping[str, LayerCall]) -> None:
        parameters = list(model.named_parameters())
        sizes = [size for _, parameter in parameters for size in parameter.shape]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._dimension_of_cell = np.repeat(np.arange(len(sizes)), sizes)  # [cells]
        self._sizes = np.array(sizes, dtype=np.int64)  # [dimensions]
        self._first_dimension = np.concatenate([[0], np.cumsum([p.dim() for _, p in parameters])])[:-1].astype(np.int64)
        first = {name: int(index) for (name, _), index in zip(parameters, self._first_dimension, strict=True)}
        names = [name for name, _ in parameters]
        self._positions = _positions_of_weights(model, names, calls)  # [parameters]
        self._cells = {group.key: _cells_by_unit(group, first, starts) for group in groups}
        first_cell = {name: int(starts[dimension]) for name, dimension in first.items()}
        self._by_channel = [*_attention_terms(model, first_cell, calls), *_merge_terms(model, first_cell, calls)]
        pools = (name for name, part in model.named_modules() if isinstance(part, AttentionPool))
        self._constant = sum(calls[name].macs for name in pools) + _compared(model, calls)
        self.dense = self.after(np.zeros(0, dtype=np.int64))

    def cells(self, units: Iterable[Unit]) -> Positions:
        """Cells of these units."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *(self._cells[key][unit] for key, unit in units)])

    def after(self, removed: Positions) -> Cost:
        """Cost without these cells; duplicates are allowed."""
        mask = np.zeros(len(self._dimension_of_cell), dtype=bool)  # [cells] True where removed
        mask[removed] = True
        sizes = self._sizes - np.bincount(self._dimension_of_cell[mask], minlength=len(self._sizes))
        elements = np.multiply.reduceat(sizes, self._first_dimension)  # [parameters] remaining elements
        macs = int((elements * self._positions).sum()) + self._constant
        for term in self._by_channel:
            channels = int((~mask[term.cells]).sum())
            macs += term.macs * channels * (1 if term.width is None else int((~mask[term.width]).sum()))
        return Cost(parameters=int(elements.sum()), macs=macs)

    def after_removing(self, removed: Mapping[Key, torch.Tensor]) -> Cost:
        """Cost without the masked units; `removed` has a [units] bool mask per group, True where removed."""
        return self.after(
            self.cells((key, unit) for key, mask in removed.items() for unit in mask.nonzero().flatten().tolist())
        )


def _cells_by_unit(group: Group, first: Mapping[str, int], starts: Positions) -> list[Positions]:
    offsets = [starts[first[piece.parameter] + piece.dim] for piece in group.slices]
    cells = np.concatenate([piece.positions.numpy() + at for piece, at in zip(group.slices, offsets, strict=True)])
    owners = np.concatenate([piece.units.numpy() for piece in group.slices])
    by_unit = cells[np.argsort(owners, kind="stable")]
    return np.split(by_unit, np.cumsum(np.bincount(owners, minlength=group.units))[:-1])


def _positions_of_weights(model: nn.Module, names: list[str], calls: Mapping[str, LayerCall]) -> Positions:
    """Number of positions that each parameter is applied to, for one image; 0 for biases, norms and embeddings."""
    positions = {f"{name}.weight": call.positions for name, call in calls.items() if call.macs}
    positions |= {f"{name}.qkv.weight": calls[name].positions for name in attentions(model)}
    return np.array([positions.get(name, 0) for name in names], dtype=np.int64)


def _attention_terms(
    model: nn.Module, starts: Mapping[str, int], calls: Mapping[str, LayerCall]
) -> Iterator[_ByChannel]:
    """The two products of each attention, and what a trimmed one saves in its query projection."""
    for place, attention in attentions(model).items():
        rows, tokens = starts[f"{place}.qkv.weight"], calls[place].positions
        qk, v = attention.layout.qk_width, attention.layout.v_width
        queries = tokens if attention.num_queries is None else attention.num_queries
        yield _ByChannel(np.concatenate([np.arange(qk), np.arange(2 * qk, 2 * qk + v)]) + rows, queries * tokens)
        if queries < tokens:
            columns = rows + 2 * qk + v + np.arange(attention.qkv.weight.shape[1])
            yield _ByChannel(np.arange(qk) + rows, queries - tokens, columns)


def _merge_terms(model: nn.Module, starts: Mapping[str, int], calls: Mapping[str, LayerCall]) -> Iterator[_ByChannel]:
    """The products that merge tokens, channel by channel."""
    for name, block in named_blocks(model).items():
        if block.merge is not None:
            place = f"{name}.merge"
            rows, width = block.merge.metric.weight.shape
            columns = starts[f"{place}.metric.weight"] + rows + np.arange(width)
            yield _ByChannel(columns, merge_macs(calls[place].positions, block.merge)[1])


def _compared(model: nn.Module, calls: Mapping[str, LayerCall]) -> int:
    """MACs of comparing tokens before they are merged, which do not depend on any width that can be pruned."""
    merges = {f"{name}.merge": block.merge for name, block in named_blocks(model).items() if block.merge is not None}
    return sum(merge_macs(calls[place].positions, merge)[0] for place, merge in merges.items())
