"""Search for the numbers of heads and MLP units that meet a budget (Khaki and Plataniotis, 2024; Kwon et al., 2022).

Heads are ranked with all other heads, MLP units with all other MLP units. For every number of heads, the most important
ones are kept, and as many of the most important MLP units as the budget allows. The split whose removed units have the
least importance in total wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from toolkit.errors import BudgetError
from toolkit.models.groups import Scores
from toolkit.prune.budget import TOLERANCE, Budget
from toolkit.prune.chunks import Chunk, chunks_of, cuts_of
from toolkit.prune.fill_budget import check_reachable
from toolkit.prune.scopes import Constraints, scope
from toolkit.records import Axis, Cut


@dataclass(frozen=True)
class Split:
    """Cuts within a budget."""

    cuts: tuple[Cut, ...]
    removed_importance: float
    """Sum of the removed units' scores."""
    remaining: float
    """Fraction of the MACs or parameters of the dense model that remains."""


def best_split(scores: Scores, budget: Budget, constraints: Constraints) -> Split:
    """The best split of the budget between heads and MLP units.

    Every layer keeps a head and `round_to` MLP units. Raises BudgetError if no split is within TOLERANCE below the
    budget.
    """
    check_smallest(budget, constraints)
    splits = list(_splits(scores, budget, constraints))
    fitting = [split for split in splits if split.remaining >= (1 - TOLERANCE) * budget.fraction]
    if not fitting:
        closest = max(split.remaining for split in splits)
        raise BudgetError(
            f"{budget} cannot be met by removing heads and MLP units: the closest is {budget.quantity}={closest:.4g}",
            "choose a budget near that, allow both axes (--axes head,mlp), or use a smaller --round-to",
        )
    return min(fitting, key=lambda split: split.removed_importance)


def check_smallest(budget: Budget, constraints: Constraints) -> None:
    """Raise BudgetError, with the smallest budget that can be met, if the budget is smaller than that."""
    check_reachable(scope("isomorphic"), budget, constraints, steps=2)  # of one step, it would ask for more


def _splits(scores: Scores, budget: Budget, constraints: Constraints) -> Iterator[Split]:
    """For every number of removed heads, the split that keeps the most MLP units within the budget, if there is one."""
    heads, mlp = (_ranked(scores, constraints, axis) for axis in ("head", "mlp"))
    cost = constraints.cost

    def removed(number: int, chunks: int) -> Sequence[Chunk]:
        return (*heads[:number], *mlp[:chunks])

    def remaining(number: int, chunks: int) -> float:
        units = chain.from_iterable(chunk.members for chunk in removed(number, chunks))
        return budget.remaining(cost.after(cost.cells(units)), cost.dense)

    for number in range(len(heads) + 1):
        low, high = 0, len(mlp) + 1  # the least number of chunks whose removal is enough; len(mlp) + 1: none is
        while low < high:
            middle = (low + high) // 2
            if middle > len(mlp) or remaining(number, middle) <= budget.fraction:
                high = middle
            else:
                low = middle + 1
        if low <= len(mlp):
            chosen = removed(number, low)
            units = chain.from_iterable(chunk.members for chunk in chosen)
            importance = sum(len(chunk.units) * chunk.score for chunk in chosen)
            yield Split(cuts_of(units, constraints.groups), importance, remaining(number, low))
        if low == 0:
            return  # with no MLP unit removed, more heads would be less than the budget asks for


def _ranked(scores: Scores, constraints: Constraints, axis: Axis) -> Sequence[Chunk]:
    """Removable chunks along an axis, least important first."""
    groups = [group for group in constraints.groups if group.axis == axis]
    chunks = [chunk for group in groups for chunk in chunks_of(group, scores[group.key], constraints.round_to)]
    return sorted(chunks, key=lambda chunk: chunk.score)
