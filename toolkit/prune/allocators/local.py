"""Units compete within their own layer only: every layer loses about the same share."""

from __future__ import annotations

from toolkit.models.groups import Scores
from toolkit.prune.allocators import Allocator, Terms
from toolkit.prune.chunks import chunks_of
from toolkit.prune.spending import Pool, Pools


class Local:
    def pools(self, scores: Scores, terms: Terms) -> Pools:
        pools = []
        for group in terms.groups:
            chunks = chunks_of(group, scores[group.key], terms.round_to, terms.gone)
            for segment in range(len(group.segments)):
                own = [chunk for chunk in chunks if chunk.segment == segment]
                pools.append(Pool(f"{group.axis} at {group.place}", own, group.members(segment)))
        return pools


PLUGIN: Allocator = Local()
