"""What a model will cost after a cut, without making it: parameters and MACs from what is left of each weight.

A weight costs the product of its dimensions, and as many MACs as positions it is applied to. Attention's two products
cost tokens^2 for every query row and every value row. Surgery compares this prediction with the real cut model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toolkit.models.adapt import attentions
from toolkit.models.count import Layer
from toolkit.models.groups import Group, Groups, Key, Unit

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cost:
    parameters: int
    macs: int


class CostModel:
    """Costs of one model after any removal.

    Every dimension of every parameter is a run of cells in one long array; a unit is a set of cells. A removal is the
    union of its units' cells, so heads and their units, or blocks and their layers, never count twice.
    """

    def __init__(self, model: nn.Module, groups: Groups, layers: Mapping[str, Layer]) -> None:
        parameters = list(model.named_parameters())
        sizes = [size for _, parameter in parameters for size in parameter.shape]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._dimension_of_cell = np.repeat(np.arange(len(sizes)), sizes)  # [cells]
        self._sizes = np.array(sizes, dtype=np.int64)  # [dimensions]
        self._first_dimension = np.concatenate([[0], np.cumsum([p.dim() for _, p in parameters])])[:-1].astype(np.int64)
        first = {name: int(index) for (name, _), index in zip(parameters, self._first_dimension, strict=True)}
        self._positions = _positions_of_weights(model, [name for name, _ in parameters], layers)  # [parameters]
        self._cells = {group.key: _cells_by_unit(group, first, starts) for group in groups}
        self._products = _product_cells(model, first, starts, layers)
        self.dense = self.after(np.zeros(0, dtype=np.int64))

    def cells(self, units: Iterable[Unit]) -> Positions:
        """The cells that go with these units."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *(self._cells[key][unit] for key, unit in units)])

    def after(self, removed: Positions) -> Cost:
        """Cost without these cells (repetitions do not matter)."""
        gone = np.zeros(len(self._dimension_of_cell), dtype=bool)
        gone[removed] = True
        left = self._sizes - np.bincount(self._dimension_of_cell[gone], minlength=len(self._sizes))
        numbers = np.multiply.reduceat(left, self._first_dimension)  # [parameters] elements left
        macs = int((numbers * self._positions).sum())
        macs += sum(squared * int((~gone[cells]).sum()) for cells, squared in self._products)
        return Cost(parameters=int(numbers.sum()), macs=macs)

    def after_removing(self, removed: Mapping[Key, torch.Tensor]) -> Cost:
        """Cost without the marked units; `removed` has a [units] bool mask for each group."""
        return self.after(
            self.cells((key, unit) for key, mask in removed.items() for unit in mask.nonzero().flatten().tolist())
        )


def _cells_by_unit(group: Group, first: Mapping[str, int], starts: Positions) -> list[Positions]:
    places = [starts[first[piece.parameter] + piece.dim] for piece in group.slices]
    cells = np.concatenate([piece.positions.numpy() + at for piece, at in zip(group.slices, places, strict=True)])
    owners = np.concatenate([piece.units.numpy() for piece in group.slices])
    by_unit = cells[np.argsort(owners, kind="stable")]
    return np.split(by_unit, np.cumsum(np.bincount(owners, minlength=group.units))[:-1])


def _positions_of_weights(model: nn.Module, names: list[str], layers: Mapping[str, Layer]) -> Positions:
    """How many positions each parameter multiplies for one image; 0 for biases, norms and embeddings."""
    found = {f"{name}.weight": layer.positions for name, layer in layers.items() if layer.macs}
    found |= {f"{name}.qkv.weight": layers[name].positions for name in attentions(model)}
    return np.array([found.get(name, 0) for name in names], dtype=np.int64)


def _product_cells(
    model: nn.Module, first: Mapping[str, int], starts: Positions, layers: Mapping[str, Layer]
) -> list[tuple[Positions, int]]:
    """For every attention: cells of its query and value rows, and tokens^2, what each of them multiplies."""
    result = []
    for place, attention in attentions(model).items():
        start = starts[first[f"{place}.qkv.weight"]]
        qk, v = attention.layout.qk_width, attention.layout.v_width
        rows = np.concatenate([np.arange(qk), np.arange(2 * qk, 2 * qk + v)]) + start
        result.append((rows, layers[place].positions ** 2))
    return result
