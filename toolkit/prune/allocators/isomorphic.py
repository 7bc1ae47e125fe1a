"""Units compete with units of the same kind in all layers (Fang et al., "Isomorphic pruning", ECCV 2024).

Heads with heads, MLP units with MLP units: their scores mean the same thing, so no normaliser is needed, and every kind
loses the same share.
"""

from __future__ import annotations

from toolkit.models.groups import Scores
from toolkit.prune.allocators import Allocator, Terms
from toolkit.prune.chunks import Chunk, chunks_of
from toolkit.prune.spending import Pool, Pools
from toolkit.records import Axis


class Isomorphic:
    def pools(self, scores: Scores, terms: Terms) -> Pools:
        chunks: dict[Axis, list[Chunk]] = {}
        for group in terms.groups:
            chunks.setdefault(group.axis, []).extend(chunks_of(group, scores[group.key], terms.round_to, terms.gone))
        return [
            Pool(axis, sorted(found, key=lambda chunk: chunk.score), terms.groups.along([axis]).members())
            for axis, found in chunks.items()
        ]


PLUGIN: Allocator = Isomorphic()
