"""Repair of every linear layer that reads removed units, from the covariances of its inputs before the removal."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field

from toolkit.models.model import Model
from toolkit.models.surgery import Removal
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate.readers import Reader, readers
from toolkit.prune.covariances import DomainMoments, collect, input_of
from toolkit.prune.least_squares import DAMPING, LinearLayer, Solve
from toolkit.records import Aggregate
from toolkit.section import Section


class Settings(Section):
    damping: Annotated[float, Field(gt=0, le=1)] = DAMPING
    """Damping of the weights' change, as a fraction of the mean variance of a layer's inputs."""


def repair_readers(
    before: Model, removal: Removal, calibration: Calibration, settings: Settings, solve: Solve
) -> Model:
    """The pruned model with new weights and biases in the layers that read removed units.

    One matrix of a layer's inputs is in memory at a time, besides those of the current pass over the images.
    """
    by_name = {reader.before: reader for reader in readers(before, removal)}
    probes = {name: input_of(name, before.module) for name in by_name}
    for name, moments in collect(before.module, probes, calibration):
        layer = linear_layer(before, name, moments, settings.damping)
        _repair(removal.model, by_name[name], layer, calibration.aggregate, solve)
    return removal.model


def linear_layer(model: Model, name: str, moments: DomainMoments, damping: float) -> LinearLayer:
    """The linear layer of this name, with the second moments of its inputs."""
    linear = model.module.get_submodule(name)
    assert isinstance(linear, torch.nn.Linear)
    return LinearLayer(linear.weight.detach().double().cpu(), linear.bias is not None, moments, damping)


@torch.no_grad()
def _repair(slim: Model, reader: Reader, layer: LinearLayer, aggregate: Aggregate, solve: Solve) -> None:
    target = slim.module.get_submodule(reader.after)
    assert isinstance(target, torch.nn.Linear)
    repaired = replace(layer, weight=layer.weight[reader.rows]).repaired(reader.kept, aggregate, solve)
    target.weight.copy_(repaired.weight)
    if target.bias is not None:
        target.bias.add_(repaired.shift.to(target.bias))
