"""Local scope: units compete within their layer, so that every layer loses about the same fraction of its units."""

from __future__ import annotations

from toolkit.models.groups import Scores
from toolkit.prune.chunks import Pool, Pools, chunks_of
from toolkit.prune.scopes import Constraints, Scope


class Local:
    """One pool per segment of a group."""

    def pools(self, scores: Scores, constraints: Constraints) -> Pools:
        pools = []
        for group in constraints.groups:
            chunks = chunks_of(group, scores[group.key], constraints.round_to, constraints.removed)
            for segment in range(len(group.segments)):
                segment_chunks = [chunk for chunk in chunks if chunk.segment == segment]
                pools.append(Pool(f"{group.axis} at {group.place}", segment_chunks, group.members(segment)))
        return pools


PLUGIN: Scope = Local()
