"""Isomorphic scope: units compete with units of the same kind in all layers (Fang et al., "Isomorphic pruning", ECCV
2024).

Scores of the same kind (heads, MLP units, ...) are comparable without a normaliser. Every kind loses the same fraction
of its units.
"""

from __future__ import annotations

from toolkit.models.groups import Scores
from toolkit.prune.chunks import Chunk, Pool, Pools, chunks_of
from toolkit.prune.scopes import Constraints, Scope
from toolkit.records import Axis


class Isomorphic:
    """One pool per axis."""

    def pools(self, scores: Scores, constraints: Constraints) -> Pools:
        chunks: dict[Axis, list[Chunk]] = {}
        for group in constraints.groups:
            chunks.setdefault(group.axis, []).extend(
                chunks_of(group, scores[group.key], constraints.round_to, constraints.removed)
            )
        return [
            Pool(
                axis,
                sorted(axis_chunks, key=lambda chunk: chunk.score),
                constraints.groups.along([axis]).members(),
            )
            for axis, axis_chunks in chunks.items()
        ]


PLUGIN: Scope = Isomorphic()
