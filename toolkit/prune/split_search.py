"""Search for the numbers of heads and MLP units that meet a budget (Khaki and Plataniotis, 2024; Kwon et al., 2022).

Heads are ranked with all other heads, MLP units with all other MLP units. For every number of heads, the most important
ones are kept, and as many of the most important MLP units as the budget allows. The split whose removed units have the
least importance in total wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from toolkit.errors import BudgetError
from toolkit.models.groups import Scores, Unit
from toolkit.prune.budget import TOLERANCE, Budget
from toolkit.prune.chunks import Chunk, Pool, chunks_of
from toolkit.prune.fill_budget import check_reachable, fill_budget, removed_by
from toolkit.prune.scopes import Constraints, scope
from toolkit.records import Cut


@dataclass(frozen=True)
class Split:
    """Cuts that meet a budget."""

    cuts: tuple[Cut, ...]
    removed_importance: float
    """Sum of the removed units' scores."""
    remaining: float
    """Fraction of the MACs or parameters of the dense model that remains."""


def best_split(scores: Scores, budget: Budget, constraints: Constraints) -> Split:
    """The best split of the budget between heads and MLP units; `constraints.removed` is empty.

    Every layer keeps a head and `round_to` MLP units. Raises BudgetError if no split is within TOLERANCE below the
    budget.
    """
    check_smallest(budget, constraints)
    splits = list(_splits(scores, budget, constraints))
    fitting = [split for split in splits if (1 - TOLERANCE) * budget.fraction <= split.remaining <= budget.fraction]
    if not fitting:
        closest = max((split.remaining for split in splits), default=0.0)
        nearest = f": the closest is {budget.quantity}={closest:.4g}" if closest else ""
        raise BudgetError(
            f"{budget} cannot be met by removing heads and MLP units{nearest}",
            "choose another budget, allow both axes (prune.axes=head,mlp), or use a smaller --round-to",
        )
    return min(fitting, key=lambda split: split.removed_importance)


def check_smallest(budget: Budget, constraints: Constraints) -> None:
    """Raise BudgetError, with the smallest budget that can be met, if the budget is smaller than that."""
    check_reachable(scope("isomorphic"), budget, constraints, steps=2)


def _splits(scores: Scores, budget: Budget, constraints: Constraints) -> Iterator[Split]:
    """For every number of removed heads, the split that keeps the most MLP units within the budget, if there is one."""
    heads, mlp = (_ranked(scores, constraints, axis) for axis in ("head", "mlp"))
    members = constraints.groups.along(["mlp"]).members()
    pools = [Pool("MLP units", mlp, members)]
    removed_heads: frozenset[Unit] = frozenset()
    for chunk in [None, *heads]:
        removed_heads |= chunk.members if chunk is not None else frozenset()
        try:
            cuts = fill_budget(pools, budget, replace(constraints, removed=removed_heads))
        except BudgetError:  # too many MLP units would have to go, or the steps are too coarse
            continue
        removed = removed_by(cuts, constraints.groups)
        importance = sum(float(scores[key][unit]) for key, unit in sorted(removed))
        cost = constraints.cost
        remaining = budget.remaining(cost.after(cost.cells(removed)), cost.dense)
        yield Split(cuts, importance, remaining)
        if remaining < (1 - TOLERANCE) * budget.fraction and not removed - removed_heads:
            return  # the heads alone are more than the budget asks for


def _ranked(scores: Scores, constraints: Constraints, axis: str) -> Sequence[Chunk]:
    """Removable chunks along an axis, least important first."""
    groups = [group for group in constraints.groups if group.axis == axis]
    chunks = [chunk for group in groups for chunk in chunks_of(group, scores[group.key], constraints.round_to)]
    return sorted(chunks, key=lambda chunk: chunk.score)
