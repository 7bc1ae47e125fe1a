"""All units compete with all others: layers that matter less lose more, whatever kind they are."""

from __future__ import annotations

import torch

from toolkit.models.groups import Scores
from toolkit.prune.allocators import GONE, Allocator, Terms
from toolkit.prune.budget import Budget
from toolkit.prune.chunks import chunks_of, coarseness
from toolkit.prune.spending import Pool, spend
from toolkit.records import Cut


class Global:
    """Scores are divided by the mean of their group's living units first: a residual channel sums over far more weights
    than an MLP unit, and would otherwise never be removed (the mean normaliser of DepGraph, Fang et al., 2023)."""

    def allocate(self, scores: Scores, budget: Budget, terms: Terms) -> tuple[Cut, ...]:
        chunks = []
        for group in terms.groups:
            own = scores[group.key]
            living = own != GONE
            mean = own[living].mean().nan_to_num(1.0).clamp_min(1e-300)  # no unit may be left: its block is gone
            chunks += chunks_of(group, torch.where(living, own / mean, GONE), terms.round_to)
        chunks.sort(key=lambda chunk: (chunk.score, coarseness(chunk.key[1])))
        pool = Pool("all units", chunks, terms.groups.members())
        return spend([pool], budget, terms)


PLUGIN: Allocator = Global()
