"""Fill the budget: remove chunks in order of increasing importance until it is reached.

Scopes only decide which units compete. They sort chunks into pools, each in order of removal; all pools are emptied at
the same pace. This module selects chunks for a fraction of the units, and searches for a fraction of MACs or
parameters.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from toolkit.errors import BudgetError
from toolkit.models.groups import Groups, Unit
from toolkit.prune.budget import TOLERANCE, Budget
from toolkit.prune.chunks import Chunk, Pool, Pools, coarseness, cuts_of
from toolkit.prune.scopes import Constraints, Scope
from toolkit.records import Cut

LOG = logging.getLogger(__name__)


def fill_budget(pools: Pools, budget: Budget, constraints: Constraints) -> tuple[Cut, ...]:
    """The cuts that achieve the budget. Raises BudgetError, with the closest achievable one, if there are none."""
    if budget.quantity == "ratio":
        selected = _by_ratio(pools, budget.fraction, constraints)
        if not selected and not constraints.removed and constraints.final:
            raise _removes_nothing(budget)
    else:
        selected = _by_cost(_at_equal_pace(pools, constraints.removed), budget, constraints)
    removed = constraints.removed.union(*(chunk.members for chunk in selected))
    return cuts_of(removed - _contained(removed, constraints.groups), constraints.groups)


def check_reachable(scope: Scope, budget: Budget, constraints: Constraints, steps: int) -> None:
    """Raise the BudgetError of `fill_budget` early if no scores can achieve the budget.

    Either removing everything allowed is not enough, or there is a single step and all chunks of a pool save the same,
    so that scores decide which units are removed, but not the cost.
    """
    zeros = {group.key: torch.zeros(group.units, dtype=torch.float64) for group in constraints.groups}
    pools = scope.pools(zeros, constraints)
    independent_of_scores = steps == 1 and _interchangeable(pools, constraints)
    if budget.quantity == "ratio":
        smallest = [
            (min(len(chunk.units) for chunk in pool.chunks), len(pool.members)) for pool in pools if pool.chunks
        ]
        if independent_of_scores and all(units > budget.fraction * members + 1e-9 for units, members in smallest):
            raise _removes_nothing(budget)
        return
    cells = constraints.cost.cells(unit for pool in pools for chunk in pool.chunks for unit in chunk.members)
    minimum = budget.remaining(constraints.cost.after(cells), constraints.cost.dense)
    if minimum > budget.fraction:
        raise _unreachable(budget, minimum, 0.0, constraints)
    if independent_of_scores:
        fill_budget(pools, budget, constraints)


def _interchangeable(pools: Pools, constraints: Constraints) -> bool:
    """Whether all chunks of a pool have the same axis, size and savings, and no unit contains another."""
    axes = {group.axis for group in constraints.groups}
    if ("block" in axes and len(axes) > 1) or ("head" in axes and axes & {"qk", "v"}):
        return False
    for pool in pools:
        kinds = {(chunk.key, chunk.segment, len(chunk.units)): chunk for chunk in pool.chunks}
        savings = {constraints.cost.after(constraints.cost.cells(chunk.members)) for chunk in kinds.values()}
        if len({(axis, units) for (_, axis), _, units in kinds}) > 1 or len(savings) > 1:
            return False
    return True


def _removes_nothing(budget: Budget) -> BudgetError:
    return BudgetError(f"{budget} removes nothing: the smallest possible cut of every layer is larger", _SMALLER_STEPS)


_MORE_CHOICE = "allow more axes (prune.axes), or use a smaller --round-to"
_SMALLER_STEPS = f"choose a larger value, {_MORE_CHOICE}"


def removed_by(cuts: Sequence[Cut], groups: Groups) -> frozenset[Unit]:
    """The units that are cut, and those contained in the heads and blocks among them."""
    cut = {((piece.place, piece.axis), unit) for piece in cuts for unit in piece.units}
    return frozenset(cut | _contained(cut, groups))


def ratio_of(cuts: Sequence[Cut], groups: Groups) -> float:
    """Fraction of units removed. Units contained in a removed head or block are excluded from numerator and
    denominator."""
    removed = removed_by(cuts, groups)
    contained = _contained(removed, groups)
    return len(removed - contained) / len(groups.members() - contained)


def _contained(units: Iterable[Unit], groups: Groups) -> set[Unit]:
    """The units contained in the heads and blocks among these units."""
    return {other for unit in units for other in groups.contained_units(unit)}


def _by_ratio(pools: Pools, ratio: float, constraints: Constraints) -> list[Chunk]:
    """Longest prefix of each pool within the ratio, counted as in `ratio_of`."""
    selected: list[Chunk] = []
    contained = _contained(constraints.removed, constraints.groups)
    for pool in sorted(pools, key=lambda pool: min(coarseness(key[1]) for key, _ in pool.members)):
        prefix = _longest_prefix(pool, ratio, constraints, contained)
        contained |= _contained((unit for chunk in prefix for unit in chunk.members), constraints.groups)
        selected += prefix
    return selected


def _longest_prefix(pool: Pool, ratio: float, constraints: Constraints, contained: set[Unit]) -> list[Chunk]:
    """Longest prefix of the pool's chunks within the ratio.

    Removing a head takes the units in it out of the count, so a longer prefix may be within the ratio although a
    shorter one is not.
    """
    remaining = set(pool.members - contained)
    cut = remaining & constraints.removed
    order: list[Chunk] = []
    length = 0
    for chunk in pool.chunks:
        units = chunk.members & remaining
        if not units:
            continue
        inside = _contained(units, constraints.groups)
        cut |= units
        cut -= inside
        remaining -= inside
        order.append(chunk)
        if len(cut) <= ratio * len(remaining) + 1e-9:
            length = len(order)
    if length == len(order) and len(cut) < int(ratio * len(remaining) + 1e-9):
        LOG.warning(
            "%s: only %d of %d units removed: each layer must keep a minimum", pool.name, len(cut), len(remaining)
        )
    return order[:length]


def _at_equal_pace(pools: Pools, removed: frozenset[Unit]) -> list[Chunk]:
    """All chunks in an order of removal in which every pool has always lost about the same fraction of its units.

    Units of removed heads count like all others: the budget counts weights, each of them once.
    """
    paced: list[tuple[float, int, int, Chunk]] = []
    for number, pool in enumerate(pools):
        count = len(pool.members & removed)
        for position, chunk in enumerate(pool.chunks):
            count += len(chunk.units)
            paced.append((count / len(pool.members), number, position, chunk))
    return [chunk for *_, chunk in sorted(paced, key=lambda entry: entry[:3])]


def _by_cost(order: Sequence[Chunk], budget: Budget, constraints: Constraints) -> list[Chunk]:
    """The longest prefix of `order` that still costs more than the budget, then single chunks that fit."""
    cost = constraints.cost
    cells = [cost.cells(chunk.members) for chunk in order]
    removed_cells = cost.cells(constraints.removed)

    def remaining(selected: Sequence[int]) -> float:
        removed = np.concatenate([removed_cells, *(cells[index] for index in selected)])
        return budget.remaining(cost.after(removed), cost.dense)

    low, high = 0, len(order)  # invariant: removing the first `low` chunks is not enough
    while low < high:
        middle = (low + high + 1) // 2
        if remaining(range(middle)) > budget.fraction:
            low = middle
        else:
            high = middle - 1
    selected, best, below = list(range(low)), remaining(range(low)), 0.0
    skipped: set[tuple[object, int]] = set()
    for index in range(low, len(order)):
        if best <= budget.fraction:
            break
        segment = (order[index].key, order[index].segment)
        fraction = remaining([*selected, index]) if segment not in skipped else 0.0
        if fraction >= (1 - TOLERANCE) * budget.fraction:
            selected, best = [*selected, index], fraction
        else:
            skipped.add(segment)  # chunks of a segment can only be removed in order
            below = max(below, fraction)
    if not best <= budget.fraction and constraints.final:
        raise _unreachable(budget, best, below, constraints)
    return [order[index] for index in selected]


def _unreachable(budget: Budget, above: float, below: float, constraints: Constraints) -> BudgetError:
    """`above` and `below`: the nearest achievable fractions around the budget; 1 and 0 if there are none. After
    earlier steps they depend on the budgets of those steps, so another budget may end elsewhere."""
    achievable = [fraction for fraction in (above, below) if 0 < fraction < 1]
    if not achievable:
        return BudgetError(f"{budget} cannot be achieved: no layer has removable units", _SMALLER_STEPS)
    closest = _rounded_up(min(achievable, key=lambda fraction: abs(fraction - budget.fraction)))
    if constraints.removed:
        return BudgetError(
            f"{budget} cannot be achieved in several steps: the closest result is {budget.quantity}={closest:g}",
            f"choose a value near that, change --steps, {_MORE_CHOICE}",
        )
    return BudgetError(
        f"{budget} cannot be achieved: the closest achievable budget is {budget.quantity}={closest:g}",
        f"choose that, {_MORE_CHOICE}",
    )


def _rounded_up(fraction: float) -> float:
    """Four significant digits, never less than `fraction`: a suggested budget must be achievable."""
    unit = 10.0 ** (math.floor(math.log10(fraction)) - 3)
    return math.ceil(fraction / unit) * unit
