"""Model and cuts in, smaller dense model out, and proof that nothing else changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.errors import CheckFailed
from toolkit.models.adapt import attentions
from toolkit.models.cost import CostModel
from toolkit.models.count import count
from toolkit.models.groups import Groups, Key, find_groups
from toolkit.models.masking import masked
from toolkit.models.modes import evaluating
from toolkit.models.selection import Selection
from toolkit.models.shapes import drop_blocks, replace_parameter, sync_sizes
from toolkit.records import Cut

TOLERANCE = 1e-5
"""Largest difference of a logit between masked and cut model in float32, relative to the largest logit (at least 1)."""


@dataclass(frozen=True)
class Removal:
    """A cut model and where its units come from."""

    module: nn.Module
    origin: Mapping[Key, tuple[str, tuple[int, ...]]]
    """For each group of the cut model: its place before the cut, and the index there of each of its units."""
    removed_blocks: tuple[int, ...]


def remove(module: nn.Module, cuts: Sequence[Cut], image_size: int) -> Removal:
    """A copy of `module` without the units of `cuts`.

    Raises PlanError when the cuts do not fit, CheckFailed when the result breaks an invariant: counts as predicted, and
    the same logits as the masked model.
    """
    groups = find_groups(module, image_size)
    selection = Selection(groups, cuts)
    slim = copy.deepcopy(module)
    for (name, dim), positions in _kept_positions(groups, selection).items():
        parameter = slim.get_parameter(name)
        if len(positions) < parameter.shape[dim] or not bool((positions[1:] > positions[:-1]).all()):
            replace_parameter(slim, name, parameter.detach().index_select(dim, positions))
    for place, attention in attentions(slim).items():
        if not selection.in_removed_block(place):
            attention.layout = selection.layout(place)
    drop_blocks(slim, selection.removed_blocks)
    sync_sizes(slim)
    _check_counts(module, slim, selection, image_size)
    _check_logits(module, slim, selection, image_size)
    return Removal(slim, _origin(groups, selection), selection.removed_blocks)


def _kept_positions(groups: Groups, selection: Selection) -> dict[tuple[str, int], Tensor]:
    """For every dimension that a group touches: the positions that stay, in their new order."""
    found: dict[tuple[str, int], list[Tensor]] = {}
    # Heads last: a head's rows are its query, key and value units, which their own groups keep; what remains of the
    # head itself is its column in the table of relative positions.
    for group in sorted(groups, key=lambda group: group.axis == "head"):
        if group.axis == "block" or selection.in_removed_block(group.place):
            continue
        kept = selection.kept_units(group)
        own = [piece for piece in group.slices if group.axis != "head" or (piece.parameter, piece.dim) not in found]
        for piece in own:
            by_unit = piece.positions[torch.argsort(piece.units, stable=True)]  # each unit has one position here
            found.setdefault((piece.parameter, piece.dim), []).append(by_unit[kept])
    return {
        where: torch.cat(positions) for where, positions in found.items() if not selection.in_removed_block(where[0])
    }


def _check_counts(module: nn.Module, slim: nn.Module, selection: Selection, image_size: int) -> None:
    predicted = CostModel(module, selection.groups, image_size).after_removing(selection.removed)
    counted = count(slim, image_size)
    if (predicted.parameters, predicted.macs) != (counted.parameters, counted.macs):
        raise CheckFailed(f"the cut model costs {counted}, predicted was {predicted}; this is a bug in the surgery")
    for place, attention in attentions(slim).items():
        rows = 2 * attention.layout.qk_width + attention.layout.v_width
        if attention.qkv.weight.shape[0] != rows:
            raise CheckFailed(f"{place} has {attention.qkv.weight.shape[0]} rows, its layout says {rows}")


def _check_logits(module: nn.Module, slim: nn.Module, selection: Selection, image_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, image_size, image_size, generator=generator)
    reference = masked(module, selection)
    with evaluating(reference), evaluating(slim), torch.inference_mode():
        expected, found = reference(images), slim(images)
    difference = float((expected - found).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise CheckFailed(f"the cut model's logits differ by {difference:.2e} from the masked model's; this is a bug")


def _origin(groups: Groups, selection: Selection) -> dict[Key, tuple[str, tuple[int, ...]]]:
    stays = [index for index in range(_blocks(groups)) if index not in selection.removed_blocks]
    renamed = {f"blocks.{old}": f"blocks.{new}" for new, old in enumerate(stays)}
    result = {}
    for group in groups:
        if selection.in_removed_block(group.place):
            continue
        head, _, tail = group.place.rpartition(".")
        place = f"{renamed[head]}.{tail}" if head in renamed else group.place
        result[place, group.axis] = (group.place, tuple(selection.kept_units(group).tolist()))
    return result


def _blocks(groups: Groups) -> int:
    return 1 + max(int(group.place.split(".")[1]) for group in groups if group.place.startswith("blocks."))
