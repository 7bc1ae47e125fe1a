"""Rungs of a ladder: numbers of units to keep, with the units to remove and the error that is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.prune.attention_probes import KeyMean
from toolkit.prune.covariances import DomainMoments, Moments
from toolkit.prune.elimination import Elimination
from toolkit.prune.least_squares import DAMPING, LinearLayer, damped
from toolkit.records import Aggregate


@dataclass(frozen=True)
class Rung:
    """A number of units to keep."""

    removed: tuple[int, ...]
    """Units of the group, ascending; empty on the first rung."""
    widths: tuple[int, ...]
    """Units kept in each segment of the group: in each head along qk and v."""
    error: float
    """Mean squared error over the calibration tokens. mlp, v, head: of the layer's output, summed over its channels,
    after repair; qk: of the attention logits of all heads, summed over heads."""
    relative: float
    """Error divided by that of removing all units; the largest over the domains for the aggregate `worst`."""


@dataclass(frozen=True)
class LadderSettings:
    """How ladders are built."""

    round_to: int = 8
    """Widths of MLPs and heads are multiples of this."""
    most_rungs: int = 96
    """About the most rungs of a segment: of wider ones, they are further apart than `round_to`, until the last few."""
    even: bool = True
    """Remove as many qk and v units of every head of a layer. Otherwise, heads compete for the layer's units."""
    damping: float = DAMPING
    """As in the compensation `ridge`."""
    aggregate: Aggregate = "mean"
    """Over the source domains, for `Rung.relative`."""
    key_mean: KeyMean = "attended"
    """As in the basis `svd`."""


def unit_rungs(
    layer: LinearLayer, columns: Sequence[Tensor], segments: Sequence[int], settings: LadderSettings
) -> tuple[Rung, ...]:
    """Rungs of units that are one input column each; segments: units per head, or of the MLP."""
    where = torch.cat(list(columns))  # [units]: column of each unit
    units = torch.empty_like(where)
    units[where] = torch.arange(len(where))
    owners = torch.arange(len(segments)).repeat_interleave(torch.tensor(segments))[units]  # segment of each column
    state = _start(layer)
    kept = list(segments)
    rungs = [_rung(layer, state, (), kept, settings)]
    for taken in _stages(kept, settings, lambda chunks: _cheapest(state, chunks, owners)):
        state.remove_inputs(torch.tensor(taken), owners)
        kept = [count - lost for count, lost in zip(kept, taken, strict=True)]
        rungs.append(_rung(layer, state, units[state.removed].tolist(), kept, settings))
    return tuple(rungs)


def head_rungs(
    layer: LinearLayer, columns: Sequence[Tensor], segments: Sequence[int], settings: LadderSettings
) -> tuple[Rung, ...]:
    """Rungs of heads, which are several input columns each; segments: the number of heads."""
    state = _start(layer)
    heads, removed = list(range(len(columns))), list[int]()
    rungs = [_rung(layer, state, (), segments, settings)]
    while len(heads) > 1:
        removed.append(heads.pop(state.remove_group([columns[head] for head in heads])))
        rungs.append(_rung(layer, state, removed, [len(heads)], settings))
    return tuple(rungs)


def qk_rungs(
    queries: DomainMoments, keys: DomainMoments, scale: float, segments: Sequence[int], settings: LadderSettings
) -> tuple[Rung, ...]:
    """Rungs of query/key units; segments: units per head; scale: that of the softmax.

    Removing the units R of a head changes its logits by q_R . k_R, of expected square sum_ij E[q_i q_j] E[k_i k_j] for
    independent q and k. Units go in the order of E[q_i^2] E[k_i^2].
    """
    starts = torch.tensor([0, *segments]).cumsum(0).tolist()
    mixed = _products(queries.mixed(), keys.mixed(), scale)
    domains = [_products(queries.by_domain[name], keys.by_domain[name], scale) for name in queries.by_domain]
    orders = [
        start + torch.argsort(mixed.diagonal()[start : start + width], stable=True)
        for start, width in zip(starts, segments, strict=False)
    ]
    errors = [_nested(mixed, order) for order in orders]
    per_domain = [[_nested(products, order) for order in orders] for products in domains]
    lost = [0] * len(segments)

    def cheapest(chunks: Sequence[int]) -> int:
        costs = [float(error[gone + chunk] - error[gone]) if chunk else torch.inf
                 for error, gone, chunk in zip(errors, lost, chunks, strict=True)]  # fmt: skip
        return costs.index(min(costs))

    def rung() -> Rung:
        removed = sorted(int(unit) for order, gone in zip(orders, lost, strict=True) for unit in order[:gone])
        widths = tuple(width - gone for width, gone in zip(segments, lost, strict=True))
        every = [_sum_at(errors, lost), *(_sum_at(own, lost) for own in per_domain)]
        total = [_sum_at(errors, segments), *(_sum_at(own, segments) for own in per_domain)]
        shares = [error / whole if whole > 0 else 0.0 for error, whole in zip(every, total, strict=True)]
        return Rung(tuple(removed), widths, every[0], shares[0] if settings.aggregate == "mean" else max(shares[1:]))

    rungs = [rung()]
    for taken in _stages(list(segments), settings, cheapest):
        lost[:] = [gone + chunk for gone, chunk in zip(lost, taken, strict=True)]
        rungs.append(rung())
    return tuple(rungs)


def _start(layer: LinearLayer) -> Elimination:
    return Elimination(layer.weight, damped(layer.mixture, layer.damping, layer.has_bias))


def _stages(
    segments: Sequence[int], settings: LadderSettings, cheapest: Callable[[Sequence[int]], int]
) -> Iterator[list[int]]:
    """How many units each segment loses from rung to rung, until each has at most `round_to`.

    cheapest: the segment that loses its chunk at the least error, for the chunk of each segment (0: it has none).
    """
    kept = list(segments)
    apart = settings.round_to * math.ceil(max(kept, default=0) / (settings.round_to * settings.most_rungs))
    while any(chunks := [_chunk(width, apart) or _chunk(width, settings.round_to) for width in kept]):
        if not settings.even:
            chosen = cheapest(chunks)
            chunks = [chunk if segment == chosen else 0 for segment, chunk in enumerate(chunks)]
        kept = [width - chunk for width, chunk in zip(kept, chunks, strict=True)]
        yield chunks


def _chunk(width: int, round_to: int) -> int:
    """Units to remove from a segment so that a positive multiple of `round_to` remains; 0 if none can be removed."""
    return (width % round_to or round_to) if width > round_to else 0


def _cheapest(state: Elimination, chunks: Sequence[int], owners: Tensor) -> int:
    """The segment whose chunk of cheapest inputs costs the least together. owners: [inputs], their segments."""
    costs = state.costs()
    totals = []
    for segment, chunk in enumerate(chunks):
        own = costs.masked_fill(owners[state.remaining] != segment, torch.inf)
        group = state.remaining[own.argsort(stable=True)[:chunk]].sort().values
        totals.append(state.group_cost(group) if chunk else float("inf"))
    return totals.index(min(totals))


def _rung(
    layer: LinearLayer, state: Elimination, removed: Sequence[int], widths: Sequence[int], settings: LadderSettings
) -> Rung:
    """The rung that an elimination has reached."""
    error = max(0.0, state.cost - layer.lam * state.change)
    relative = error / layer.energy if layer.energy > 0 else 0.0
    if settings.aggregate == "worst":
        relative = max(layer.relative_errors(state.remaining, layer.with_shift(state.weight, state.remaining)).values())
    return Rung(tuple(sorted(removed)), tuple(widths), error, relative)


def _products(queries: Moments, keys: Moments, scale: float) -> Tensor:
    """[units, units]: E[q_i q_j] E[k_i k_j], times the squared scale"""
    return scale**2 * queries.uncentred * keys.uncentred


def _nested(products: Tensor, order: Tensor) -> Tensor:
    """[units + 1]: sums over the first n units in this order, n = 0 ... units"""
    sums = products[order][:, order].cumsum(0).cumsum(1).diagonal()
    return torch.cat([sums.new_zeros(1), sums])


def _sum_at(errors: Sequence[Tensor], lost: Sequence[int]) -> float:
    return sum(float(error[gone]) for error, gone in zip(errors, lost, strict=True))
