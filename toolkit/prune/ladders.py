"""Ladders: for a group of units, which to remove for every number kept, and the error that is left after repair.

MLP units, value units and heads are removed by optimal brain surgeon (`elimination`); queries and keys by their share
of the attention logits, which is optimal in the basis `svd`. A search over blocks, axes and numbers of units reads
errors from the ladders; `repaired` gives weights of any rung, equal to those of the compensations `ridge` and `obs`
with the same damping for the mean over the domains. Models that are cut along several ladders: `search/stitching.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from toolkit.models.block import attentions
from toolkit.models.gates import read_slices
from toolkit.models.groups import Group, Key
from toolkit.models.model import Model
from toolkit.prune.attention_probes import keys_of, queries_of
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate.repairing import linear_layer
from toolkit.prune.covariances import DomainMoments, Probe, collect, input_of
from toolkit.prune.least_squares import LinearLayer, NestedRefits, Repaired, damped, others
from toolkit.prune.rungs import LadderSettings, Rung, head_rungs, qk_rungs, unit_rungs
from toolkit.records import Axis, Cut


@dataclass(frozen=True)
class Ladder:
    """Rungs of one group, from all units to the fewest; each removes the units of the one before and more."""

    key: Key
    rungs: tuple[Rung, ...]
    layer: LinearLayer | None
    """The layer that reads the units; None along qk, where nothing is repaired."""
    reader: str
    """Name of that layer; empty along qk."""
    columns: tuple[Tensor, ...]
    """Input columns of the layer for each unit of the group; empty along qk."""

    def cut(self, rung: Rung) -> Cut:
        """The cut that leads to a rung other than the first."""
        return Cut(*self.key, rung.removed)

    def rung(self, kept: int) -> Rung:
        """The rung with this number of units; KeyError if there is none."""
        return {sum(rung.widths): rung for rung in self.rungs}[kept]

    def kept_columns(self, rung: Rung) -> Tensor:
        """[kept] int64: input columns of the layer that remain, ascending. Surgery reorders heads by their width."""
        assert self.layer is not None
        removed = [self.columns[unit] for unit in rung.removed]
        return others(torch.cat(removed) if removed else torch.zeros(0, dtype=torch.long), self.layer.weight.shape[1])

    def repaired(self, rung: Rung) -> Repaired:
        """Weights of the layer for the columns `kept_columns`, and the change of its bias."""
        assert self.layer is not None
        kept, weight = self._refits.first(len(self.kept_columns(rung)))
        return self.layer.with_shift(weight, kept)

    @cached_property
    def _refits(self) -> NestedRefits:
        assert self.layer is not None
        layer, last = self.layer, self.kept_columns(self.rungs[-1])
        removed = [sorted({*lower.removed} - {*upper.removed}) for upper, lower in pairwise(self.rungs)]
        order = torch.cat([last, *(self.columns[unit] for units in reversed(removed) for unit in units)])
        return NestedRefits(layer.weight, damped(layer.mixture, layer.damping, layer.has_bias), order)


DEFAULT = LadderSettings()


def ladders(
    model: Model, calibration: Calibration, axes: Sequence[Axis], settings: LadderSettings = DEFAULT
) -> dict[Key, Ladder]:
    """Ladders of all groups along these axes, of mlp, v, head and qk, whose units can be removed one by one.

    Along qk, the model should be in the basis `svd`. Raises DataError as in `collect`.
    """
    groups = [group for group in model.groups.along(axes) if group.axis in ("mlp", "v", "head", "qk")]
    needed = {group.key: _probes(model, group, settings) for group in groups}
    found: dict[str, DomainMoments] = {}
    result: dict[Key, Ladder] = {}
    for name, moments in collect(model.module, {k: v for own in needed.values() for k, v in own.items()}, calibration):
        found[name] = moments
        for group in groups:
            if group.key in needed and needed[group.key].keys() <= found.keys():
                result[group.key] = _ladder(model, group, [found[probe] for probe in needed.pop(group.key)], settings)
        found = {name: moments for name, moments in found.items() if any(name in own for own in needed.values())}
    return {group.key: result[group.key] for group in groups}


def _probes(model: Model, group: Group, settings: LadderSettings) -> dict[str, Probe]:
    """What a group's ladder needs: queries and keys, or the input of the layer that reads the units."""
    if group.axis == "qk":
        attention = attentions(model.module)[group.place]
        return {
            f"queries of {group.place}": queries_of(group.place, attention),
            f"keys of {group.place}": keys_of(group.place, attention, settings.key_mean),
        }
    name, _ = _reader(model, group)
    return {name: input_of(name, model.module)}


def _reader(model: Model, group: Group) -> tuple[str, tuple[Tensor, ...]]:
    """Name of the layer that reads the units, and its input columns for each unit: several for a head."""
    read = model.groups.find(group.place, "v") if group.axis == "head" else group
    (piece,) = read_slices(model.module, read)
    columns = piece.positions[torch.argsort(piece.units, stable=True)]  # one per unit
    return piece.parameter.removesuffix(".weight"), columns.split(read.segments if group.axis == "head" else 1)


def _ladder(model: Model, group: Group, moments: Sequence[DomainMoments], settings: LadderSettings) -> Ladder:
    if group.axis == "qk":
        queries, keys = moments
        scale = attentions(model.module)[group.place].scale
        return Ladder(group.key, qk_rungs(queries, keys, scale, group.segments, settings), None, "", ())
    name, columns = _reader(model, group)
    (inputs,) = moments
    if settings.aggregate == "mean":
        inputs = DomainMoments({"mixture": inputs.mixed()})  # a ladder keeps one matrix, not one of each domain
    layer = linear_layer(model, name, inputs, settings.damping)
    rungs = head_rungs if group.axis == "head" else unit_rungs
    return Ladder(group.key, rungs(layer, columns, group.segments, settings), layer, name, columns)
