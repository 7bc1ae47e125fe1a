"""Mean compensation: the average contribution of removed units is added to the bias of the next layer.

As in FLAP (An et al., 2024) and variance-based pruning (2025): b += W[:, removed] E[x[removed]], with the expectation
over all tokens of the calibration images. Exact for units whose output is constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.dg.batches import Batch
from toolkit.errors import DataError, UnsupportedModel
from toolkit.models.gates import read_slices
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.models.surgery import Removal
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import Compensation


@dataclass(frozen=True)
class _Reader:
    """A linear layer that reads units of which some were removed."""

    before: str
    """Its name in the model before the removal."""
    after: str
    """Its name in the pruned model."""
    removed: tuple[int, ...]
    """Input columns that were removed, by their index before."""


class MeanIntoBias:
    """The mean output of removed MLP units, value units and heads, in the biases of `fc2` and `proj`."""

    def repair(self, before: Model, removal: Removal, calibration: Calibration) -> Model:
        readers = list(_readers(before, removal))
        if not readers:
            return removal.model
        means = mean_inputs(before.module, [reader.before for reader in readers], calibration.load())
        rows = list(removal.origin["residual", "embed"][1])
        with torch.no_grad():
            for reader in readers:
                removed = list(reader.removed)
                columns = before.module.get_parameter(f"{reader.before}.weight")[rows][:, removed]
                bias = removal.model.module.get_parameter(f"{reader.after}.bias")
                bias.add_(columns.double() @ means[reader.before][removed])
        return removal.model


def _readers(before: Model, removal: Removal) -> Iterator[_Reader]:
    """Layers that read removed units along mlp and v (which include those of removed heads)."""
    for (place, axis), (old_place, kept) in removal.origin.items():
        if axis not in ("mlp", "v"):
            continue
        group = before.groups.find(old_place, axis)
        units = torch.ones(group.units, dtype=torch.bool)
        units[list(kept)] = False
        for piece in read_slices(before.module, group) if bool(units.any()) else ():
            name = piece.parameter.removesuffix(".weight")
            if getattr(before.module.get_submodule(name), "bias", None) is None:
                raise UnsupportedModel(f"{name} has no bias for compensation", "prune with --compensation none")
            removed = piece.positions[units[piece.units]].tolist()
            yield _Reader(name, place + name.removeprefix(old_place), tuple(removed))


def mean_inputs(module: nn.Module, names: Sequence[str], batches: Sequence[Batch]) -> Mapping[str, Tensor]:
    """[inputs] float64 for each linear layer: the mean of its input over all tokens of all images."""
    totals: dict[str, Tensor] = {}
    counts = dict.fromkeys(names, 0)

    def record(name: str, x: Tensor) -> None:
        tokens = x.reshape(-1, x.shape[-1])
        totals[name] = totals.get(name, torch.zeros(())) + tokens.sum(dim=0, dtype=torch.float64)
        counts[name] += len(tokens)

    hooks = [
        module.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: record(name, inputs[0]))
        for name in names
    ]
    try:
        with evaluating(module), torch.inference_mode():
            for images, _ in batches:
                module(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not all(counts.values()):
        raise DataError("there are no calibration images to average activations over")
    return {name: totals[name] / counts[name] for name in names}


PLUGIN: Compensation = MeanIntoBias()
