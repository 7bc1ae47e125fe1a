"""Model and cuts in, smaller dense model out, and proof that nothing else changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from toolkit.errors import CheckFailed
from toolkit.models.adapt import attentions
from toolkit.models.groups import Groups, Key
from toolkit.models.masking import masked
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.models.selection import Selection
from toolkit.models.shapes import drop_blocks, replace_parameter, skeleton, sync_sizes
from toolkit.records import Cut, ModelInfo

TOLERANCE = 1e-5
"""Largest difference between masked and cut model in float32: of a logit relative to the largest logit (at least 1), of
a feature that the classifier reads relative to the largest feature. (A fresh classifier may hide any fault.)"""


@dataclass(frozen=True)
class Removal:
    """A cut model and where its units come from."""

    model: Model
    origin: Mapping[Key, tuple[str, tuple[int, ...]]]
    """For each group of the cut model: its place before the cut, and the index there of each of its units."""


def remove(model: Model, cuts: Sequence[Cut]) -> Removal:
    """`model` without the units of `cuts`, as a model of its own; `model` stays as it is.

    Raises PlanError when the cuts do not fit, CheckFailed when the result breaks an invariant: counts as predicted, and
    the same logits as the masked model.
    """
    selection = Selection(model.groups, cuts)
    slim = Model(_cut(model.module, selection), _info_after(model.info, selection.removed_blocks)).described()
    _check_counts(model, slim, selection)
    _check_outputs(model, slim, selection)
    return Removal(slim, _origin(model.groups, selection))


def _cut(module: nn.Module, selection: Selection) -> nn.Module:
    """A module that keeps what `selection` keeps, and shares no tensor with `module`."""
    kept = _kept_positions(selection.groups, selection)
    slim = skeleton(module)
    for name, parameter in module.named_parameters():
        values = parameter.detach()
        for dim in range(values.dim()):
            positions = kept.get((name, dim))
            if positions is not None and not _is_all(positions, values.shape[dim]):
                values = values.index_select(dim, positions)
        replace_parameter(slim, name, values.clone() if values.data_ptr() == parameter.data_ptr() else values)
    for name, buffer in module.named_buffers():
        parent, _, child = name.rpartition(".")
        setattr(slim.get_submodule(parent), child, buffer.clone())
    for place, attention in attentions(slim).items():
        if not selection.in_removed_block(place):
            attention.layout = selection.layout(place)
    drop_blocks(slim, selection.removed_blocks)
    sync_sizes(slim)
    return slim


def _is_all(positions: Tensor, size: int) -> bool:
    """Whether these are all positions in their order."""
    return len(positions) == size and bool((positions[1:] > positions[:-1]).all())


def _info_after(info: ModelInfo, removed_blocks: Sequence[int]) -> ModelInfo:
    """The cut model's description: blocks are counted in the source architecture, through all cuts."""
    depth = len(info.removed_blocks) + len(info.layouts)
    left = [index for index in range(depth) if index not in info.removed_blocks]
    return replace(
        info,
        removed_blocks=tuple(sorted((*info.removed_blocks, *(left[index] for index in removed_blocks)))),
        made_from=info.weights_sha256,
        weights_sha256="",
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


def _check_counts(model: Model, slim: Model, selection: Selection) -> None:
    predicted, counted = model.cost.after_removing(selection.removed), slim.counts
    if (predicted.parameters, predicted.macs) != (counted.parameters, counted.macs):
        raise CheckFailed(f"the cut model costs {counted}, predicted was {predicted}; this is a bug in the surgery")
    for place, attention in attentions(slim.module).items():
        if fault := attention.misfit():
            raise CheckFailed(f"{place}: {fault}; this is a bug in the surgery")


def _check_outputs(model: Model, slim: Model, selection: Selection) -> None:
    rng, size = torch.Generator().manual_seed(0), model.info.image_size
    images = torch.randn(1, 3, size, size, generator=rng)
    kept = selection.kept_units(selection.groups.find("residual", "embed"))
    features, logits = _outputs(masked(model.module, selection), images)
    slim_features, slim_logits = _outputs(slim.module, images)
    features = features[:, kept]
    scale = float(features.abs().max())
    if not scale > 0:
        raise CheckFailed("the model's features are all zero: nothing shows whether the cut is right")
    for what, expected, actual, largest in (
        ("features", features, slim_features, scale),
        ("logits", logits, slim_logits, max(1.0, float(logits.abs().max()))),
    ):
        difference = float((expected - actual).abs().max())
        if not difference <= TOLERANCE * largest:
            raise CheckFailed(
                f"the cut model's {what} differ by {difference:.2e} from the masked one's; their scale is {largest:.2g}"
            )


def _outputs(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features [batch, width] that the classifier reads, by timm's interface, and logits [batch, classes]."""
    with evaluating(module), torch.inference_mode():
        tokens = module.forward_features(images)  # type: ignore[operator]
        features = module.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        return features, module.forward_head(tokens)  # type: ignore[operator]


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
