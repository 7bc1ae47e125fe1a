"""Mean compensation: the average contribution of removed units is added to the bias of the next layer.

As in FLAP (An et al., 2024) and variance-based pruning (2025): b += W[:, removed] E[x[removed]], with the expectation
over all tokens of the calibration images. Exact for units whose output is constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from toolkit.dg.batches import Batch
from toolkit.errors import DataError, UnsupportedModel
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.models.surgery import Removal
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import Compensation
from toolkit.prune.compensate.readers import readers
from toolkit.prune.covariances import check_finite


class MeanIntoBias:
    """The mean output of removed MLP units, value units and heads, in the biases of `fc2` and `proj`."""

    def repair(self, before: Model, removal: Removal, calibration: Calibration) -> Model:
        found = list(readers(before, removal))
        if not found:
            return removal.model
        for reader in found:
            if getattr(before.module.get_submodule(reader.before), "bias", None) is None:
                raise UnsupportedModel(
                    f"{reader.before} has no bias for compensation",
                    "prune with --compensation ridge, which changes weights, or none",
                )
        means = mean_inputs(before.module, [reader.before for reader in found], calibration.load())
        with torch.no_grad():
            for reader in found:
                columns = before.module.get_parameter(f"{reader.before}.weight")[reader.rows][:, reader.removed]
                bias = removal.model.module.get_parameter(f"{reader.after}.bias")
                bias.add_(columns.double() @ means[reader.before][reader.removed])
        return removal.model


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
    for name, total in totals.items():
        check_finite(total, name)
    return {name: totals[name] / counts[name] for name in names}


PLUGIN: Compensation = MeanIntoBias()
