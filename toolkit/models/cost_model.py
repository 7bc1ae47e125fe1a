"""Predict parameters and MACs after pruning, without building the pruned model.

A weight has as many parameters as the product of its remaining dimensions, and as many MACs as that product times the
positions it is applied to. QK^T and PV cost tokens^2 MACs per query channel and per value channel. `surgery` compares
the prediction with the pruned model.

Tokens are merged after a block's attention: its MLP and the attention of the next block have fewer tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toolkit.models.block import attentions, block_of
from toolkit.models.groups import Group, Groups, Key, Unit
from toolkit.models.pooling import AttentionPool
from toolkit.models.profile import Cost, LayerCall

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Tokens:
    """Number of tokens at the attention of each block, and after its merging."""

    attention: Positions  # [blocks]
    merged: Positions  # [blocks]


class CostModel:
    """Cost of a model after the removal of any set of units, with any number of tokens per block.

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
        blocks = [block_of(name, groups.blocks) for name in names]
        self._block = np.array([-1 if block is None else block for block in blocks])  # [parameters]
        self._in_attention = np.array([block_of(name, [*attentions(model)]) is not None for name in names])
        self._cells = {group.key: _cells_by_unit(group, first, starts) for group in groups}
        self._products = _product_cells(model, first, starts)
        tokens = np.array([calls[name].positions for name in attentions(model)], dtype=np.int64)
        self._tokens = _Tokens(tokens, tokens)
        pools = (name for name, part in model.named_modules() if isinstance(part, AttentionPool))
        self._pooling = sum(calls[name].macs for name in pools)
        self.dense = self.after(np.zeros(0, dtype=np.int64))

    def cells(self, units: Iterable[Unit]) -> Positions:
        """Cells of these units."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *(self._cells[key][unit] for key, unit in units)])

    def after(self, removed: Positions, tokens: Sequence[int] | None = None) -> Cost:
        """Cost without these cells; duplicates are allowed.

        tokens: number of tokens after the attention of each block of the model, counted before any removal; None: all.
        """
        at = self._tokens if tokens is None else self._with_merging(tokens)
        mask = np.zeros(len(self._dimension_of_cell), dtype=bool)  # [cells] True where removed
        mask[removed] = True
        sizes = self._sizes - np.bincount(self._dimension_of_cell[mask], minlength=len(self._sizes))
        elements = np.multiply.reduceat(sizes, self._first_dimension)  # [parameters] remaining elements
        macs = int((elements * self._positions_at(at)).sum())
        channels = (int((~mask[cells]).sum()) for cells in self._products)
        macs += sum(count * int(queries) ** 2 for count, queries in zip(channels, at.attention, strict=True))
        return Cost(parameters=int(elements.sum()), macs=macs + self._pooling)

    def after_removing(self, removed: Mapping[Key, torch.Tensor]) -> Cost:
        """Cost without the masked units; `removed` has a [units] bool mask per group, True where removed."""
        return self.after(
            self.cells((key, unit) for key, mask in removed.items() for unit in mask.nonzero().flatten().tolist())
        )

    def _with_merging(self, tokens: Sequence[int]) -> _Tokens:
        merged = np.array(tokens, dtype=np.int64)
        return _Tokens(np.concatenate([self._tokens.attention[:1], merged[:-1]]), merged)

    def _positions_at(self, tokens: _Tokens) -> Positions:
        """Number of positions that each parameter is applied to: those in blocks to tokens. [parameters]"""
        inside = np.where(self._in_attention, tokens.attention[self._block], tokens.merged[self._block])
        return np.where((self._block >= 0) & (self._positions > 0), inside, self._positions)


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


def _product_cells(model: nn.Module, first: Mapping[str, int], starts: Positions) -> list[Positions]:
    """For each attention: the cells of its query and value channels, each of which costs tokens^2 MACs."""
    result = []
    for place, attention in attentions(model).items():
        start = starts[first[f"{place}.qkv.weight"]]
        qk, v = attention.layout.qk_width, attention.layout.v_width
        channels = np.concatenate([np.arange(qk), np.arange(2 * qk, 2 * qk + v)]) + start
        result.append(channels)
    return result
