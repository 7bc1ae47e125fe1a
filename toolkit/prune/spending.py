"""Remove chunks, cheapest loss first, until the budget is met.

Allocators differ only in who competes with whom. They sort chunks into pools, each in the order of removal; all pools
are emptied at the same pace. The rest is here: shares of units, and the search for a share of MACs or parameters.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from toolkit.errors import BudgetError
from toolkit.models.groups import Groups, Unit
from toolkit.prune.allocators import Allocator, Terms
from toolkit.prune.budget import TOLERANCE, Budget
from toolkit.prune.chunks import Chunk, coarseness, cuts_of
from toolkit.records import Cut

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool:
    """Chunks that compete with each other, least important first, and the units they were taken from."""

    name: str
    chunks: Sequence[Chunk]
    members: frozenset[Unit]


Pools: TypeAlias = Sequence[Pool]


def spend(pools: Pools, budget: Budget, terms: Terms) -> tuple[Cut, ...]:
    """The cuts that meet the budget; BudgetError, with the closest that can be met, if none do."""
    if budget.quantity == "ratio":
        chosen = _share(pools, budget.share, terms)
        if not chosen and not terms.gone and not terms.partway:
            raise _nothing(budget)
    else:
        chosen = _until_met(_at_one_pace(pools, terms.gone), budget, terms)
    removed = terms.gone.union(*(chunk.members for chunk in chosen))
    return cuts_of(removed - _inside(removed, terms.groups), terms.groups)


def check_reachable(spender: Allocator, budget: Budget, terms: Terms, steps: int) -> None:
    """BudgetError, the one that `spend` would raise, for a budget that no scores meet.

    Not even the removal of all that may go is enough; or there is a single round, and units compete with their like
    only, so that scores decide which of them go but not what is left.
    """
    pools = spender.pools({group.key: torch.zeros(group.units, dtype=torch.float64) for group in terms.groups}, terms)
    settled = steps == 1 and _alike(pools, terms)
    if budget.quantity == "ratio":
        fewest = [(min(len(chunk.units) for chunk in pool.chunks), len(pool.members)) for pool in pools if pool.chunks]
        if settled and all(units > budget.share * members + 1e-9 for units, members in fewest):
            raise _nothing(budget)
        return
    cells = terms.cost.cells(unit for pool in pools for chunk in pool.chunks for unit in chunk.members)
    least = budget.left(terms.cost.after(cells), terms.cost.dense)
    if least > budget.share:
        raise _unmet(budget, least, 0.0, terms)
    if settled:
        spend(pools, budget, terms)


def _alike(pools: Pools, terms: Terms) -> bool:
    """Whether all chunks of a pool are of one axis and size and save the same, and no unit goes with another."""
    axes = {group.axis for group in terms.groups}
    if ("block" in axes and len(axes) > 1) or ("head" in axes and axes & {"qk", "v"}):
        return False
    for pool in pools:
        kinds = {(chunk.key, chunk.segment, len(chunk.units)): chunk for chunk in pool.chunks}
        savings = {terms.cost.after(terms.cost.cells(chunk.members)) for chunk in kinds.values()}
        if len({(axis, units) for (_, axis), _, units in kinds}) > 1 or len(savings) > 1:
            return False
    return True


def _nothing(budget: Budget) -> BudgetError:
    return BudgetError(f"{budget} removes nothing: no layer has that many units to spare", _SMALLER_STEPS)


_MORE_CHOICE = "allow more axes (prune.axes), or round to smaller steps (--round-to)"
_SMALLER_STEPS = f"ask for more, {_MORE_CHOICE}"


def removed_by(cuts: Sequence[Cut], groups: Groups) -> frozenset[Unit]:
    """The units that are cut, and those that go with the heads and blocks among them."""
    cut = {((piece.place, piece.axis), unit) for piece in cuts for unit in piece.units}
    return frozenset(cut | _inside(cut, groups))


def ratio_of(cuts: Sequence[Cut], groups: Groups) -> float:
    """Share of units that are cut. Those that go with a removed head or block do not count, neither here nor there."""
    removed = removed_by(cuts, groups)
    inside = _inside(removed, groups)
    return len(removed - inside) / len(groups.members() - inside)


def _inside(units: Iterable[Unit], groups: Groups) -> set[Unit]:
    """The units that go with the heads and blocks among these units."""
    return {other for unit in units for other in groups.contained_units(unit)}


def _share(pools: Pools, share: float, terms: Terms) -> list[Chunk]:
    """Of every pool the longest start that holds no more than the share of its units, counted as in `ratio_of`."""
    chosen: list[Chunk] = []
    inside = _inside(terms.gone, terms.groups)
    for pool in sorted(pools, key=lambda pool: min(coarseness(key[1]) for key, _ in pool.members)):
        start = _longest_start(pool, share, terms, inside)
        inside |= _inside((unit for chunk in start for unit in chunk.members), terms.groups)
        chosen += start
    return chosen


def _longest_start(pool: Pool, share: float, terms: Terms, inside: set[Unit]) -> list[Chunk]:
    """A head takes units along, cut or not, so that a longer start may hold the share where a shorter one does not."""
    living = set(pool.members - inside)
    cut = living & terms.gone
    order: list[Chunk] = []
    fitting = 0
    for chunk in pool.chunks:
        units = chunk.members & living
        if not units:
            continue
        within = _inside(units, terms.groups)
        cut |= units
        cut -= within
        living -= within
        order.append(chunk)
        if len(cut) <= share * len(living) + 1e-9:
            fitting = len(order)
    if fitting == len(order) and len(cut) < int(share * len(living) + 1e-9):
        LOG.warning("%s: %d of %d units removed, all but what every layer keeps", pool.name, len(cut), len(living))
    return order[:fitting]


def _at_one_pace(pools: Pools, gone: frozenset[Unit]) -> list[Chunk]:
    """One order of removal, in which every pool has lost about the same share of its units at any time.

    Units of removed heads count here like all others: the budget counts weights, and each once.
    """
    paced: list[tuple[float, int, int, Chunk]] = []
    for number, pool in enumerate(pools):
        removed = len(pool.members & gone)
        for position, chunk in enumerate(pool.chunks):
            removed += len(chunk.units)
            paced.append((removed / len(pool.members), number, position, chunk))
    return [chunk for *_, chunk in sorted(paced, key=lambda entry: entry[:3])]


def _until_met(order: Sequence[Chunk], budget: Budget, terms: Terms) -> list[Chunk]:
    """A start of the order that costs just more than the budget, then single chunks that still fit."""
    cost = terms.cost
    cells = [cost.cells(chunk.members) for chunk in order]
    gone = cost.cells(terms.gone)

    def left(chosen: Sequence[int]) -> float:
        removed = np.concatenate([gone, *(cells[index] for index in chosen)])
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
        raise _unmet(budget, best, below, terms)
    return [order[index] for index in chosen]


def _unmet(budget: Budget, above: float, below: float, terms: Terms) -> BudgetError:
    """`above` and `below` the budget: the nearest shares that were found; 1 and 0 where there is none. In rounds, what
    is found depends on the budget of the rounds before: another one may end elsewhere."""
    found = [share for share in (above, below) if 0 < share < 1]
    if not found:
        return BudgetError(f"{budget} cannot be met: no layer has units to spare", _SMALLER_STEPS)
    closest = _rounded_up(min(found, key=lambda share: abs(share - budget.share)))
    if terms.gone:
        return BudgetError(
            f"{budget} is not met in rounds: the closest that they come to is {budget.quantity}={closest:g}",
            f"ask for something near that, change --steps, {_MORE_CHOICE}",
        )
    return BudgetError(
        f"{budget} cannot be met: the closest that can is {budget.quantity}={closest:g}",
        f"ask for that, {_MORE_CHOICE}",
    )


def _rounded_up(share: float) -> float:
    """Four significant digits, never less than `share`: what an error offers must be met when asked for."""
    unit = 10.0 ** (math.floor(math.log10(share)) - 3)
    return math.ceil(share / unit) * unit
