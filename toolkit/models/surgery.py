"""Model and cuts in, smaller dense model out, and proof that nothing else changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
from toolkit.records import Cut, ModelInfo

TOLERANCE = 1e-5
"""Largest difference between masked and cut model in float32: of a logit relative to the largest logit (at least 1), of
a feature that the classifier reads relative to the largest feature. (A fresh classifier may hide any fault.)"""


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
    _check_outputs(module, slim, selection, image_size)
    return Removal(slim, _origin(groups, selection), selection.removed_blocks)


def info_after(info: ModelInfo, removal: Removal) -> ModelInfo:
    """What `model.json` says of the cut model: blocks are counted in the source architecture, through all cuts."""
    depth = len(info.removed_blocks) + len(info.layouts)
    left = [index for index in range(depth) if index not in info.removed_blocks]
    return replace(
        info,
        removed_blocks=tuple(sorted((*info.removed_blocks, *(left[index] for index in removal.removed_blocks)))),
        made_from=info.weights_sha256,
    )


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
        if fault := attention.misfit():
            raise CheckFailed(f"{place}: {fault}; this is a bug in the surgery")


def _check_outputs(module: nn.Module, slim: nn.Module, selection: Selection, image_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, image_size, image_size, generator=generator)
    reference, kept = masked(module, selection), selection.kept_units(selection.groups.find("residual", "embed"))
    with evaluating(reference), evaluating(slim), torch.inference_mode():
        logits, found_logits = reference(images), slim(images)
        features, found_features = _features(reference, images)[:, kept], _features(slim, images)
    scale = float(features.abs().max())
    if not scale > 0:
        raise CheckFailed("the model's features are all zero: nothing shows whether the cut is right")
    for what, expected, found, largest in (
        ("features", features, found_features, scale),
        ("logits", logits, found_logits, max(1.0, float(logits.abs().max()))),
    ):
        difference = float((expected - found).abs().max())
        if not difference <= TOLERANCE * largest:
            raise CheckFailed(
                f"the cut model's {what} differ by {difference:.2e} from the masked one's; their scale is {largest:.2g}"
            )


def _features(model: nn.Module, images: Tensor) -> Tensor:
    """[batch, width]: what the classifier reads, by timm's interface."""
    features: Tensor = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
    return features


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
