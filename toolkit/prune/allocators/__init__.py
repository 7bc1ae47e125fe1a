"""Who competes with whom for the budget: one file per scope, found by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from toolkit import plugins
from toolkit.models.cost_model import CostModel
from toolkit.models.groups import Groups, Scores, Unit

if TYPE_CHECKING:
    from toolkit.prune.spending import Pools


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
    def pools(self, scores: Scores, terms: Terms) -> Pools:
        """The chunks that may go, in pools of those that compete; `spending` takes from all pools at one pace."""
        ...


def allocator(name: str) -> Allocator:
    return cast(Allocator, plugins.load(__name__, name))
