"""Predict parameters and MACs after pruning, without building the pruned model.

A weight has as many parameters as the product of its remaining dimensions, and as many MACs as that product times the
positions it is applied to. QK^T and PV cost tokens^2 MACs per query channel and per value channel. `surgery` compares
the prediction with the pruned model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toolkit.models.block import attentions
from toolkit.models.groups import Group, Groups, Key, Unit
from toolkit.models.profile import Cost, LayerCall

Positions = npt.NDArray[np.int64]


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
        self._positions = _positions_of_weights(model, [name for name, _ in parameters], calls)  # [parameters]
        self._cells = {group.key: _cells_by_unit(group, first, starts) for group in groups}
        self._products = _product_cells(model, first, starts, calls)
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
        macs = int((elements * self._positions).sum())
        macs += sum(squared * int((~mask[cells]).sum()) for cells, squared in self._products)
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


def _product_cells(
    model: nn.Module, first: Mapping[str, int], starts: Positions, calls: Mapping[str, LayerCall]
) -> list[tuple[Positions, int]]:
    """For each attention: the cells of its query and value channels, and tokens^2, the MACs of each of them."""
    result = []
    for place, attention in attentions(model).items():
        start = starts[first[f"{place}.qkv.weight"]]
        qk, v = attention.layout.qk_width, attention.layout.v_width
        channels = np.concatenate([np.arange(qk), np.arange(2 * qk, 2 * qk + v)]) + start
        result.append((channels, calls[place].positions ** 2))
    return result
