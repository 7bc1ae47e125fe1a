"""Token merges in order of the trajectory distance that they cost: OPTIN's token reduction (OPTIN tau), in our form.

The paper derives the number of tokens of each layer from the trajectory score, and merges them by bipartite matching.
Ours: each step merges some more tokens in one block, the one with the least increase of the score per MAC saved. The
tokens of the dense model are compared after they were merged by the same matrices as those of the merging model, so
that what counts is how much the computation changes, not that there are fewer tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from toolkit.errors import PlanError
from toolkit.models.merge import Merging
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.models.recording import recording
from toolkit.models.tokens import block_indices, check_merges, tokens_of, with_tokens
from toolkit.prune.trajectory import Comparison, Trajectory, distance, recorded
from toolkit.records import Merge


@dataclass(frozen=True)
class Rung:
    """A model that merges tokens."""

    model: Model
    merges: tuple[Merge, ...]
    importance: float
    """Trajectory score of the merging model: 0 for the dense one."""


@dataclass(frozen=True)
class MergeScore:
    """The trajectory score of a model that merges tokens."""

    trajectory: Trajectory
    """That of the dense model."""
    images: Tensor
    factor: float
    """Factor of the divergences: see `Terms`."""

    @torch.no_grad()
    def __call__(self, merging: Model) -> float:
        """distance + factor * divergence, over all blocks after the first one that merges."""
        with recording(merging, block_indices(merging.info)) as found, evaluating(merging.module):
            logits = merging.module(self.images)
        comparison, mergings = self.trajectory.comparison, found.mergings
        applied: list[Merging] = []
        total = 0.0
        for (block, output), dense in zip(sorted(found.tokens.items()), self.trajectory.outputs, strict=True):
            here = [mergings[block]] if block in mergings else []
            if applied:
                expected = dense
                for one in [*applied, *here]:
                    if expected.shape[1] > one.prefix:  # false for a last block that computes class tokens only
                        expected = one.apply(expected)
                total += float(distance(comparison.features(expected)[0], comparison.features(output)))
            applied += here
        return total + self.factor * float(comparison.divergence(self.trajectory.logits, logits[None]))


def merge_score(model: Model, images: Tensor, comparison: Comparison, factor: float) -> MergeScore:
    """The score of models made from `model`, which merges no tokens, for images [images, 3, S, S]."""
    with evaluating(model.module):
        return MergeScore(recorded(model.module, images, comparison), images, factor)


def merge_ladder(model: Model, score: Callable[[Model], float], step: int) -> Iterator[Rung]:
    """The dense model, then models that merge `step` more tokens each, in the block where that costs least per MAC.

    Ends when no block can merge that many more. Raises UnsupportedModel for a model whose tokens cannot be merged.
    """
    check_merges(model, ())
    rung: Rung | None = Rung(model, (), 0.0)
    while rung is not None:
        yield rung
        rung = _next(model, rung, score, step)


def _next(model: Model, rung: Rung, score: Callable[[Model], float], step: int) -> Rung | None:
    best: tuple[float, Rung] | None = None
    for block in block_indices(model.info)[:-1]:
        merges = more_merged(rung.merges, block, step, tokens_of(model), model.parts.prefix_tokens)
        try:
            candidate = with_tokens(model, merges)
        except PlanError:  # more than the matching can merge
            continue
        saved = rung.model.cost.macs - candidate.cost.macs
        if saved <= 0:
            continue
        importance = score(candidate)
        price = (importance - rung.importance) / saved
        if best is None or price < best[0]:
            best = price, Rung(candidate, merges, importance)
    return None if best is None else best[1]


def more_merged(merges: Sequence[Merge], block: int, step: int, tokens: int, prefix: int) -> tuple[Merge, ...]:
    """The merges with `step` tokens fewer from `block` on, or as many fewer as later matchings can merge.

    tokens: number of tokens of the model, of which the first `prefix` are never merged.
    """
    result = [merge for merge in merges if merge.block < block]
    after = [merge for merge in merges if merge.block >= block]
    before = result[-1].tokens if result else tokens
    if not after or after[0].block != block:
        after = [Merge(block, before), *after]
    for merge in after:
        fewest = prefix + (before - prefix) // 2 if merge.block != block else 0
        result.append(replace(merge, tokens=max(merge.tokens - step, fewest)))
        before = result[-1].tokens
    return tuple(result)
