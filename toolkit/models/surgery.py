"""Remove units from a model, and verify the result against a masked reference."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.errors import CheckFailed, PlanError
from toolkit.models.architectures import Architecture
from toolkit.models.block import attentions, block_of, blocks_of, named_blocks
from toolkit.models.groups import RESIDUAL, Groups, Key
from toolkit.models.masking import masked
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.models.selection import Selection
from toolkit.models.shapes import copy_sharing_tensors, drop_blocks, replace_parameter, sync_sizes
from toolkit.records import Cut, ModelInfo

PROOF_TOKENS = 24
"""Number of leading tokens on which a pruned model's blocks are compared with the masked model's."""
TOLERANCE = 1e-5
"""Maximum difference between masked and pruned model in float32: of logits relative to the largest logit (at least 1),
of the first block's input and the classifiers' relative to the largest value. (A zero classifier would hide errors.)"""


@dataclass(frozen=True)
class Removal:
    """A pruned model and the origin of its units."""

    model: Model
    origin: Mapping[Key, tuple[str, tuple[int, ...]]]
    """For each group of the pruned model: its place in the original model, and the original index of each unit."""


def remove(model: Model, cuts: Sequence[Cut]) -> Removal:
    """A pruned copy of `model`, without the units of `cuts`; `model` is unchanged.

    Raises PlanError if the cuts do not match the model, and CheckFailed if the result violates an invariant: predicted
    cost, and equal logits to the masked model.
    """
    selection = Selection(model.groups, cuts)
    _check_blocks(model.module, selection.removed_blocks)
    slim = Model(
        _pruned(model.module, model.architecture, selection), _info_after(model.info, selection.removed_blocks)
    ).with_current_info()
    _check_cost(model, slim, selection)
    _check_outputs(model, slim, selection)
    return Removal(slim, _origin(model.groups, selection))


def nothing_removed(model: Model) -> Removal:
    """A copy of `model` with all units, as `remove` would return it."""
    origin = {group.key: (group.place, tuple(range(group.units))) for group in model.groups}
    return Removal(model.copied(), origin)


def pruned(model: Model, cuts: Sequence[Cut]) -> nn.Module:
    """The module of `remove`, or a copy of the model's if there are no cuts, without the checks of a result.

    Raises PlanError as `remove`.
    """
    if not cuts:
        return copy.deepcopy(model.module)
    return _pruned(model.module, model.architecture, Selection(model.groups, cuts))


def _pruned(module: nn.Module, architecture: Architecture, selection: Selection) -> nn.Module:
    """A copy of `module` with the kept units only, sharing no tensors with it."""
    kept = _kept_positions(selection.groups, selection)
    slim = copy_sharing_tensors(module)
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
    sync_sizes(slim, architecture)
    return slim


def _check_blocks(module: nn.Module, removed: Collection[int]) -> None:
    """Raise PlanError for blocks that merge tokens, or that leave a last block without its role."""
    blocks = [*named_blocks(module).values()]
    if merging := [index for index in removed if blocks[index].merge is not None]:
        raise PlanError(f"block {merging[0]} merges tokens, so it cannot be removed", "merge in another block")
    last = max(index for index in range(len(blocks)) if index not in removed)
    if blocks[last].merge is not None:
        raise PlanError(f"block {last} merges tokens, and nothing would follow it", "keep a block after it")
    if last != len(blocks) - 1 and blocks[-1].attn.num_queries is not None:
        raise PlanError(f"block {len(blocks) - 1} computes the classifier's tokens, so it cannot be removed")


def _is_all(positions: Tensor, size: int) -> bool:
    """Whether these are all indices, in order."""
    return len(positions) == size and bool((positions[1:] > positions[:-1]).all())


def _info_after(info: ModelInfo, removed_blocks: Sequence[int]) -> ModelInfo:
    """Info of the pruned model, with removed blocks numbered as in the source architecture."""
    depth = len(info.removed_blocks) + len(info.layouts)
    kept = [index for index in range(depth) if index not in info.removed_blocks]
    return replace(
        info,
        removed_blocks=tuple(sorted((*info.removed_blocks, *(kept[index] for index in removed_blocks)))),
        made_from=info.weights_sha256,
        weights_sha256="",
    )


def _kept_positions(groups: Groups, selection: Selection) -> dict[tuple[str, int], Tensor]:
    """For each dimension covered by a group: the kept indices, in their new order."""
    result: dict[tuple[str, int], list[Tensor]] = {}
    # Heads come last: their query, key and value channels are handled by the qk and v groups, which leaves only the
    # head's column in the relative position table.
    for group in sorted(groups, key=lambda group: group.axis == "head"):
        if group.axis == "block" or selection.in_removed_block(group.place):
            continue
        kept = selection.kept_units(group)
        pieces = [piece for piece in group.slices if group.axis != "head" or (piece.parameter, piece.dim) not in result]
        for piece in pieces:
            by_unit = piece.positions[torch.argsort(piece.units, stable=True)]  # one index per unit
            result.setdefault((piece.parameter, piece.dim), []).append(by_unit[kept])
    return {
        (name, dim): torch.cat(indices)
        for (name, dim), indices in result.items()
        if not selection.in_removed_block(name)
    }


def _check_cost(model: Model, slim: Model, selection: Selection) -> None:
    predicted = model.cost_model.after_removing(selection.removed)
    if slim.cost != predicted:
        raise CheckFailed(f"the pruned model has {slim.cost}, predicted was {predicted}; this is a bug in the surgery")
    for place, attention in attentions(slim.module).items():
        if mismatch := attention.layout_mismatch():
            raise CheckFailed(f"{place}: {mismatch}; this is a bug in the surgery")


def _check_outputs(model: Model, slim: Model, selection: Selection) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = model.example()
    residual, classifiers = selection.groups.find(*RESIDUAL), model.parts.classifiers
    kept = selection.kept_units(residual)
    large = _outputs(masked(model.module, selection), inputs, classifiers)
    small = _outputs(slim.module, inputs, classifiers)
    expected = large._replace(tokens=large.tokens[..., kept])
    if any(piece.parameter == f"{classifiers[0]}.weight" for piece in residual.slices):  # false for attention pooling
        expected = expected._replace(features=large.features[..., kept])
    if not float(expected.features.abs().max()) > 0:
        raise CheckFailed("the model's features are all zero, so that the pruned model cannot be verified")
    for quantity, wanted, actual in zip(_Outputs._fields, expected, small, strict=True):
        largest = float(wanted.abs().max())
        if quantity == "logits":
            largest = max(1.0, largest)
        difference = float((wanted - actual).abs().max())
        if not difference <= TOLERANCE * largest:
            raise CheckFailed(
                f"the pruned model's {quantity} differ by {difference:.2e} from the masked model's, "
                f"whose scale is {largest:.2g}"
            )


class _Outputs(NamedTuple):
    """Outputs by which a masked and a pruned model are compared."""

    tokens: Tensor
    """[batch, tokens, width]: input of the first block."""
    features: Tensor
    """[classifiers, batch, width]: input of each classifier, computed from some of the tokens."""
    logits: Tensor
    """[batch, classes], computed from some of the tokens."""


def _outputs(module: nn.Module, inputs: Mapping[str, Tensor], classifiers: Collection[str]) -> _Outputs:
    """Outputs for `inputs`. Unless attention depends on positions, blocks compute the first tokens only: all of a
    block's weights apply to each token, so a few tokens reveal a wrong weight."""
    tokens: list[Tensor] = []
    features: list[Tensor] = []
    any_number = all(attention.relative_position_index is None for attention in attentions(module).values())

    def shorten(blocks: nn.Module, received: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        tokens.append(received[0])
        return (received[0][:, :PROOF_TOKENS] if any_number else received[0], *received[1:])

    def record(classifier: nn.Module, received: tuple[Tensor, ...]) -> None:
        features.append(received[0])

    hooks = [blocks_of(module).register_forward_pre_hook(shorten)]
    hooks += [module.get_submodule(name).register_forward_pre_hook(record) for name in classifiers]
    try:
        with _all_tokens(module), evaluating(module), torch.inference_mode():
            logits: Tensor = module(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return _Outputs(tokens[0], torch.stack(features), logits)


@contextmanager
def _all_tokens(module: nn.Module) -> Iterator[None]:
    """Blocks without merging: which tokens are merged may depend on the rounding of similarities."""
    merges = {block: block.merge for block in named_blocks(module).values()}
    for block in merges:
        block.merge = None
    try:
        yield
    finally:
        for block, merge in merges.items():
            block.merge = merge


def _origin(groups: Groups, selection: Selection) -> dict[Key, tuple[str, tuple[int, ...]]]:
    names = groups.blocks
    kept = [index for index in range(len(names)) if index not in selection.removed_blocks]
    renamed = {old: names[new] for new, old in enumerate(kept)}
    result = {}
    for group in groups:
        if selection.in_removed_block(group.place):
            continue
        block = block_of(group.place, names)
        place = group.place if block is None else renamed[block] + group.place.removeprefix(names[block])
        result[place, group.axis] = (group.place, tuple(selection.kept_units(group).tolist()))
    return result
