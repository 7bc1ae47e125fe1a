"""Reference model for pruning: full size, with the removed units set to zero.

Zero rows and columns disable heads, their channels and MLP units. Removed residual channels are zero everywhere, so
layer norms compute statistics over the kept channels only. A removed block is the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.models.block import blocks_of
from toolkit.models.groups import RESIDUAL
from toolkit.models.norms import Norm, normed
from toolkit.models.selection import Selection
from toolkit.models.shapes import copy_sharing_tensors, replace_parameter


def masked(model: nn.Module, selection: Selection) -> nn.Module:
    """A copy of `model` at full size with the logits of the model pruned to `selection`; `model` is unchanged."""
    result = copy_sharing_tensors(model)
    for name, masks in _masks(selection).items():
        values = model.get_parameter(name).detach()
        for dim, keeps in masks.items():
            values = values * keeps.to(values.dtype).view(-1, *[1] * (values.dim() - dim - 1))
        replace_parameter(result, name, values)
    residual = selection.groups.find(*RESIDUAL)
    if bool(selection.removed[residual.key].any()):
        kept = selection.kept_units(residual)
        for name, norm in residual.norms(result).items():
            result.set_submodule(name, _KeptNorm(norm, kept))
    for index in selection.removed_blocks:
        blocks_of(result)[index] = _NoBlock()
    return result


def _masks(selection: Selection) -> dict[str, dict[int, Tensor]]:
    """For each parameter and affected dimension: [size] float32, 0 where removed and 1 where kept."""
    masks: dict[str, dict[int, Tensor]] = {}
    for group in selection.groups:
        removed = selection.removed[group.key]
        if group.axis == "block" or not bool(removed.any()):
            continue
        for piece in group.slices:
            size = selection.groups.size(piece.parameter, piece.dim)
            keeps = masks.setdefault(piece.parameter, {}).setdefault(piece.dim, torch.ones(size))
            keeps[piece.positions[removed[piece.units]]] = 0.0
    return masks


class _KeptNorm(nn.Module):
    """A norm over the kept channels; zeros elsewhere."""

    def __init__(self, norm: Norm, kept: Tensor) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x).index_copy(-1, self.kept, normed(self.norm, x, self.kept))


class _NoBlock(nn.Module):
    """The identity in place of a block."""

    def forward(self, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return x, sizes
