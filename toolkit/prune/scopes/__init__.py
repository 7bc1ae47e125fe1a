"""Pruning scopes: which units compete for the budget. One file per scope, found by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from toolkit import plugins
from toolkit.models.cost_model import CostModel
from toolkit.models.groups import Groups, Scores, Unit
from toolkit.prune.chunks import Pools
from toolkit.section import Section

KIND = "scope"


@dataclass(frozen=True)
class Constraints:
    """Limits on the units that may be removed."""

    groups: Groups
    """The groups that may be pruned."""
    cost: CostModel
    round_to: int
    removed: frozenset[Unit] = frozenset()
    """Units removed by earlier steps, with those contained in them. They stay removed, whatever their scores."""
    final: bool = True
    """False in all steps but the last: these get as close to the budget as chunks allow without removing more, and
    remove nothing rather than raise BudgetError."""


class Scope(Protocol):
    def pools(self, scores: Scores, constraints: Constraints) -> Pools:
        """The removable chunks, in pools of those that compete; `fill_budget` empties all pools at the same pace."""
        ...


def scope(name: str, own: Section | None = None) -> Scope:
    """The scope of this name with its own settings (None: its defaults). Raises UnknownName with the closest names."""
    return cast(Scope, plugins.load(__name__, name, own))
