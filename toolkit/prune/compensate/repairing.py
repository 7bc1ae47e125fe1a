"""Repair of every linear layer that reads removed units, from the covariances of its inputs before the removal."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from toolkit.models.model import Model
from toolkit.models.surgery import Removal
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate.readers import Reader, readers
from toolkit.prune.covariances import DomainMoments, collect, input_of
from toolkit.prune.least_squares import DAMPING, Aggregate, LinearLayer, Solve
from toolkit.section import Section


class Settings(Section):
    damping: Annotated[float, Field(gt=0, le=1)] = DAMPING
    """Damping of the weights' change, as a fraction of the mean variance of a layer's inputs."""
    aggregate: Aggregate = "mean"
    """Error to minimise over the source domains: their mean, or the worst."""


def repair_readers(
    before: Model, removal: Removal, calibration: Calibration, settings: Settings, solve: Solve
) -> Model:
    """The pruned model with new weights and biases in the layers that read removed units.

    One matrix of a layer's inputs is in memory at a time, besides those of the current pass over the images.
    """
    by_name = {reader.before: reader for reader in readers(before, removal)}
    probes = {name: input_of(name, before.module) for name in by_name}
    for name, moments in collect(before.module, probes, calibration):
        _repair(before, removal.model, by_name[name], moments, settings, solve)
    return removal.model


def _repair(
    before: Model, slim: Model, reader: Reader, moments: DomainMoments, settings: Settings, solve: Solve
) -> None:
    layer, target = before.module.get_submodule(reader.before), slim.module.get_submodule(reader.after)
    assert isinstance(layer, torch.nn.Linear)
    assert isinstance(target, torch.nn.Linear)
    source = LinearLayer(
        layer.weight.detach().double().cpu()[reader.rows], layer.bias is not None, moments, settings.damping
    )
    repaired = source.repaired(reader.kept, settings.aggregate, solve)
    with torch.no_grad():
        target.weight.copy_(repaired.weight)
        if target.bias is not None:
            target.bias.add_(repaired.shift.to(target.bias))
