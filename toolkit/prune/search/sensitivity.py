"""First error weights of a search: the divergence that an error of each group causes in the whole model."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.models.groups import Key
from toolkit.progress import Progress, silent
from toolkit.prune.ladders import Ladder
from toolkit.prune.rungs import Rung
from toolkit.prune.search.random_search import Divergence
from toolkit.prune.search.space import Choice, Weights

TYPICAL = 0.05
"""Relative error of the rungs that are tried."""
SMALLEST = 1e-6
"""Smallest weight, for groups whose errors change nothing."""


def sensitivities(ladders: Mapping[Key, Ladder], divergence: Divergence, progress: Progress = silent) -> Weights:
    """Divergence for each unit of relative error, by group: measured at one rung, the others at full width."""
    result: dict[Key, float] = {}
    for number, (key, ladder) in enumerate(ladders.items()):
        progress(number, len(ladders), f"sensitivity of {key[0]}, {key[1]}")
        if len(ladder.rungs) == 1:
            result[key] = SMALLEST
            continue
        rung = _typical(ladder)
        caused = divergence(Choice((), ((key, sum(rung.widths)),)))
        result[key] = max(SMALLEST, caused / max(rung.relative, 1e-12))
    return result


def _typical(ladder: Ladder) -> Rung:
    """The rung with a relative error closest to TYPICAL, below the first."""
    return min(ladder.rungs[1:], key=lambda rung: abs(rung.relative - TYPICAL))
