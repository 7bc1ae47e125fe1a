"""Global scope: all units compete with each other, so that less important layers lose more units."""

from __future__ import annotations

from toolkit.models.groups import Scores
from toolkit.prune.chunks import Pool, Pools, chunks_of
from toolkit.prune.scopes import Constraints, Scope


class Global:
    """Divides scores by the mean of their group: a residual channel sums over far more weights than an MLP unit, and
    would otherwise never be removed (the mean normaliser of DepGraph, Fang et al., 2023)."""

    def pools(self, scores: Scores, constraints: Constraints) -> Pools:
        chunks = []
        for group in constraints.groups:
            raw = scores[group.key]
            normalised = raw / raw.nanmean().clamp_min(1e-300)
            chunks += chunks_of(group, normalised, constraints.round_to, constraints.removed)
        chunks.sort(key=lambda chunk: chunk.score)
        return [Pool("all units", chunks, constraints.groups.members())]


PLUGIN: Scope = Global()
