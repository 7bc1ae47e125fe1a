"""Who competes with whom for the budget: one file per scope, found by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from toolkit import plugins
from toolkit.models.cost import CostModel
from toolkit.models.groups import Groups, Scores, Unit
from toolkit.prune.budget import Budget
from toolkit.records import Cut


@dataclass(frozen=True)
class Terms:
    """What an allocator has to keep to."""

    groups: Groups
    """Only these may be cut."""
    cost: CostModel
    round_to: int
    gone: frozenset[Unit] = frozenset()
    """What earlier rounds have removed, with all that went along. It stays removed, whatever its scores."""
    partway: bool = False
    """True in all rounds but the last: come as near as chunks allow, without going below, and cut nothing rather than
    refuse."""


class Allocator(Protocol):
    def allocate(self, scores: Scores, budget: Budget, terms: Terms) -> tuple[Cut, ...]:
        """Cuts that meet the budget, those of earlier rounds among them; BudgetError if none do."""
        ...


def allocator(name: str) -> Allocator:
    return cast(Allocator, plugins.load(__name__, name))
