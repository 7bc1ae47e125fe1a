"""Who competes with whom for the budget: one file per scope, found by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from toolkit import plugins
from toolkit.models.cost import CostModel
from toolkit.models.groups import Groups, Scores
from toolkit.prune.budget import Budget
from toolkit.records import Cut

GONE = -1.0
"""Score of a unit that an earlier round has removed: below every importance, so that it goes again before any other."""


@dataclass(frozen=True)
class Terms:
    """What an allocator has to keep to."""

    groups: Groups
    """Only these may be cut."""
    cost: CostModel
    round_to: int
    partway: bool = False
    """True in all rounds but the last: come as near as chunks allow, without going below, and cut nothing rather than
    refuse."""


class Allocator(Protocol):
    def allocate(self, scores: Scores, budget: Budget, terms: Terms) -> tuple[Cut, ...]:
        """Cuts that meet the budget; BudgetError if none do."""
        ...


def allocator(name: str) -> Allocator:
    return cast(Allocator, plugins.load(__name__, name))
