"""Remove chunks, cheapest loss first, until the budget is met.

Allocators differ only in who competes with whom. They sort chunks into pools, each in the order of removal; all pools
are emptied at the same pace. The rest is here: shares of units, and the search for a share of MACs or parameters.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from toolkit.errors import BudgetError
from toolkit.models.groups import Groups, Unit
from toolkit.prune.allocators import Terms
from toolkit.prune.budget import TOLERANCE, Budget
from toolkit.prune.chunks import WHOLE, Chunk, chunks_of, cuts_of
from toolkit.records import Cut

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool:
    """Chunks that compete with each other, least important first, and the units they were taken from."""

    name: str
    chunks: Sequence[Chunk]
    units: frozenset[Unit]


Pools: TypeAlias = Sequence[Pool]


def spend(pools: Pools, budget: Budget, terms: Terms) -> tuple[Cut, ...]:
    """The cuts that meet the budget; BudgetError, with the closest that can be met, if none do."""
    if budget.quantity == "ratio":
        chosen = _share(pools, budget.share, terms.groups)
        if not chosen and not terms.partway:
            raise BudgetError(f"{budget} removes nothing: no layer has that many units to spare", _SMALLER_STEPS)
        return cuts_of(chosen, terms.groups)
    return cuts_of(_until_met(_at_one_pace(pools), budget, terms), terms.groups)


_SMALLER_STEPS = "ask for more, allow more axes (prune.axes), or round to smaller steps (--round-to)"


def ratio_of(cuts: Sequence[Cut], groups: Groups) -> float:
    """Share of units that are cut. Those that go with a removed head or block do not count, neither here nor there."""
    cut = {((piece.place, piece.axis), unit) for piece in cuts for unit in piece.units}
    implied = {other for unit in cut for other in groups.inside(unit)}
    return len(cut - implied) / len(groups.units() - implied)


def _share(pools: Pools, share: float, groups: Groups) -> list[Chunk]:
    """Of every pool as many first chunks as fit into the share of its units, counted as in `ratio_of`."""
    chosen: list[Chunk] = []
    implied: set[Unit] = set()
    for pool in sorted(pools, key=_coarsest):
        living, cut = set(pool.units - implied), set[Unit]()
        for chunk in pool.chunks:
            units = chunk.members - implied
            within = {other for unit in units for other in groups.inside(unit)}
            after = len(cut) + len(units) - len(within & cut)
            if after > share * (len(living) - len(within & living)) + 1e-9:
                break
            if units:
                chosen.append(chunk)
            cut |= units
            cut -= within
            living -= within
            implied |= within
        else:
            if len(cut) < int(share * len(living) + 1e-9):
                LOG.warning(
                    "%s: %d of %d units removed, all but what every layer keeps", pool.name, len(cut), len(living)
                )
    return chosen


def _coarsest(pool: Pool) -> int:
    """Blocks go before heads, heads before what is inside them."""
    return min((WHOLE.index(key[1]) if key[1] in WHOLE else len(WHOLE) for key, _ in pool.units), default=0)


def _at_one_pace(pools: Pools) -> list[Chunk]:
    """One order of removal, in which every pool has lost about the same share of its units at any time."""
    paced: list[tuple[float, int, int, Chunk]] = []
    for number, pool in enumerate(pools):
        removed = 0
        for position, chunk in enumerate(pool.chunks):
            removed += len(chunk.units)
            paced.append((removed / len(pool.units), number, position, chunk))
    return [chunk for *_, chunk in sorted(paced, key=lambda entry: entry[:3])]


def _until_met(order: Sequence[Chunk], budget: Budget, terms: Terms) -> list[Chunk]:
    """A start of the order that costs just more than the budget, then single chunks that still fit."""
    cost = terms.cost
    cells = [np.concatenate([cost.cells(chunk.key, unit) for unit in chunk.units]) for chunk in order]

    def left(chosen: Sequence[int]) -> float:
        removed = np.concatenate([cells[index] for index in chosen]) if chosen else np.zeros(0, dtype=np.int64)
        return budget.left(cost.after(removed), cost.dense)

    low, high = 0, len(order)  # the budget is not met with the first `low` chunks removed
    while low < high:
        middle = (low + high + 1) // 2
        if left(range(middle)) > budget.share:
            low = middle
        else:
            high = middle - 1
    chosen, best, below = list(range(low)), left(range(low)), 0.0
    skipped: set[tuple[object, int]] = set()
    for index in range(low, len(order)):
        if best <= budget.share:
            break
        where = (order[index].key, order[index].segment)
        share = left([*chosen, index]) if where not in skipped else 0.0
        if share >= (1 - TOLERANCE) * budget.share:
            chosen, best = [*chosen, index], share
        else:
            skipped.add(where)  # later chunks of a segment never go before earlier ones
            below = max(below, share)
    if not best <= budget.share and not terms.partway:
        raise _unmet(budget, best, below)
    return [order[index] for index in chosen]


def check_reachable(budget: Budget, terms: Terms) -> None:
    """BudgetError where not even the removal of all that may go meets the budget, whatever the scores will be."""
    if budget.quantity == "ratio":
        return
    chunks = [
        chunk
        for group in terms.groups
        for chunk in chunks_of(group, torch.zeros(group.units, dtype=torch.float64), terms.round_to)
    ]
    cells = [terms.cost.cells(chunk.key, unit) for chunk in chunks for unit in chunk.units]
    least = budget.left(terms.cost.after(np.concatenate(cells)), terms.cost.dense) if cells else 1.0
    if least > budget.share:
        raise _unmet(budget, least, 0.0)


def _unmet(budget: Budget, above: float, below: float) -> BudgetError:
    """`above` and `below` the budget: the nearest shares that were found; 1 and 0 where there is none."""
    found = [share for share in (above, below) if 0 < share < 1]
    if not found:
        return BudgetError(f"{budget} cannot be met: no layer has units to spare", _SMALLER_STEPS)
    closest = _rounded_up(min(found, key=lambda share: abs(share - budget.share)))
    return BudgetError(
        f"{budget} cannot be met: the closest that can is {budget.quantity}={closest:g}",
        "ask for that, allow more axes (prune.axes), or round to smaller steps (--round-to)",
    )


def _rounded_up(share: float) -> float:
    """Four significant digits, never less than `share`: what an error offers must be met when asked for."""
    unit = 10.0 ** (math.floor(math.log10(share)) - 3)
    return math.ceil(share / unit) * unit
