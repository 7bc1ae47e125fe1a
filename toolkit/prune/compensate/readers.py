"""Linear layers that read removed units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.models.gates import read_slices
from toolkit.models.groups import RESIDUAL
from toolkit.models.model import Model
from toolkit.models.surgery import Removal


@dataclass(frozen=True)
class Reader:
    """A linear layer that reads units of which some were removed: `fc2` of an MLP, `proj` of an attention."""

    before: str
    """Its name in the model before the removal."""
    after: str
    """Its name in the pruned model."""
    kept: Tensor
    """[inputs after] int64: index before the removal of each input column of the pruned layer."""
    removed: Tensor
    """[removed] int64: removed input columns, by their index before, ascending."""
    rows: Tensor
    """[outputs after] int64: index before the removal of each output row of the pruned layer."""


def readers(before: Model, removal: Removal) -> Iterator[Reader]:
    """Layers that read removed units along mlp and v (which include those of removed heads)."""
    rows = torch.tensor(removal.origin[RESIDUAL][1])
    for (place, axis), (old_place, kept) in removal.origin.items():
        if axis not in ("mlp", "v"):
            continue
        group = before.groups.find(old_place, axis)
        if len(kept) == group.units:
            continue
        removed = torch.ones(group.units, dtype=torch.bool)
        removed[list(kept)] = False
        for piece in read_slices(before.module, group):
            columns = piece.positions[torch.argsort(piece.units, stable=True)]  # one per unit
            name = piece.parameter.removesuffix(".weight")
            lost = columns[removed].sort().values
            yield Reader(name, place + name.removeprefix(old_place), columns[list(kept)], lost, rows)
