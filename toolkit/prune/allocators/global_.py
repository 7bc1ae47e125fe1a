"""All units compete with all others: layers that matter less lose more, whatever kind they are."""

from __future__ import annotations

from toolkit.models.groups import Scores
from toolkit.prune.allocators import Allocator, Terms
from toolkit.prune.chunks import chunks_of
from toolkit.prune.spending import Pool, Pools


class Global:
    """Scores are divided by their group's mean first: a residual channel sums over far more weights than an MLP unit,
    and would otherwise never be removed (the mean normaliser of DepGraph, Fang et al., 2023)."""

    def pools(self, scores: Scores, terms: Terms) -> Pools:
        chunks = []
        for group in terms.groups:
            own = scores[group.key]
            chunks += chunks_of(group, own / own.nanmean().clamp_min(1e-300), terms.round_to, terms.gone)
        chunks.sort(key=lambda chunk: chunk.score)
        return [Pool("all units", chunks, terms.groups.members())]


PLUGIN: Allocator = Global()
