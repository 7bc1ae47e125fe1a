"""Token merging as a layer: similar patch tokens of an image become their mean (Bolya et al., "Token merging", 2023).

Patch tokens are split into sources and destinations. The sources that are most similar to a destination are merged into
it; class and register tokens never are. Similarity is the cosine of the keys of the block's attention, averaged over
its heads. The number of tokens is fixed, so shapes are static; which tokens are merged depends on the image.

Everything is a matrix product with a one-hot matrix, in PyTorch as in exported graphs: a scatter with a reduction is
computed wrongly by some versions of TensorRT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.errors import PlanError
from toolkit.records import Matching


class Split(NamedTuple):
    """Positions of the patch tokens that may be merged, and of those that they are merged into."""

    sources: tuple[int, ...]
    destinations: tuple[int, ...]


def split_of(matching: Matching, patches: int, remaining: int) -> Split:
    """How `patches` tokens, in the order of the image's rows, are split so that `remaining` may remain.

    bipartite: every second token is a source, and the most similar ones are merged. grid: `remaining` evenly spaced
    tokens are destinations, and all others are merged.
    Raises PlanError if there are not enough tokens to merge.
    """
    if matching == "grid":
        destinations = tuple((2 * index + 1) * patches // (2 * remaining) for index in range(remaining))
        if 0 < remaining < patches:
            return Split(tuple(sorted({*range(patches)} - {*destinations})), destinations)
    split = Split(tuple(range(0, patches, 2)), tuple(range(1, patches, 2)))
    fewest = 1 if matching == "grid" else len(split.destinations)
    if not fewest <= remaining < patches:
        raise PlanError(
            f"{patches} patch tokens cannot be merged into {remaining}: {matching} matching leaves {fewest} to "
            f"{patches - 1}"
        )
    return split


@dataclass(frozen=True)
class Merging:
    """How the tokens of a batch of images are merged."""

    prefix: int
    """Number of class and register tokens, which come first."""
    split: Split
    kept: Tensor | None
    """[batch, kept sources, sources] one-hot: the sources that are not merged, in order. None: all are merged."""
    merged: Tensor
    """[batch, destinations, sources]: sizes of the sources merged into each destination, else 0."""
    own: Tensor
    """[batch, destinations, 1]: sizes of the destinations."""
    sizes: Tensor
    """[batch, tokens after merging]: number of source tokens in each token."""

    def apply(self, tokens: Tensor) -> Tensor:
        """[batch, tokens, channels] -> [batch, tokens after merging, channels]: means weighted by size."""
        patches = tokens[:, self.prefix :]
        sources, destinations = _take(patches, self.split.sources), _take(patches, self.split.destinations)
        weights = [part.to(tokens.dtype) for part in (self.own, self.merged)]
        total = self.sizes[:, -len(self.split.destinations) :, None].to(tokens.dtype)
        means = (weights[0] * destinations + weights[1] @ sources) / total
        kept = [] if self.kept is None else [self.kept.to(tokens.dtype) @ sources]
        return torch.cat([tokens[:, : self.prefix], *kept, means], dim=1)


class TokenMerge(nn.Module):
    """Merges tokens after the attention of a block, until `tokens` are left in each image.

    metric: linear layer from the input of attention to what is compared, the mean of the heads' keys. It has weights of
    its own, so that pruned heads and other bases of queries and keys do not change which tokens are merged.
    prefix: number of class and register tokens.
    """

    def __init__(self, metric: nn.Linear, tokens: int, prefix: int, matching: Matching = "bipartite") -> None:
        super().__init__()
        self.metric = metric
        self.tokens, self.prefix, self.matching = tokens, prefix, matching

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Merging:
        """The merging for attention inputs x [batch, tokens, width] of tokens with these sizes [batch, tokens]."""
        split = split_of(self.matching, x.shape[1] - self.prefix, self.tokens - self.prefix)
        keys = F.normalize(self.metric(x[:, self.prefix :]).float(), dim=-1)
        scores = _take(keys, split.sources) @ _take(keys, split.destinations).transpose(1, 2)
        best, nearest = scores.max(dim=-1)  # [batch, sources]
        to_nearest = _one_hot(nearest, len(split.destinations)).transpose(1, 2)  # [batch, destinations, sources]
        counts = x.new_ones(x.shape[:2], dtype=torch.float32) if sizes is None else sizes.float()
        patch_counts = counts[:, self.prefix :]
        of_sources, own = _take(patch_counts, split.sources), _take(patch_counts, split.destinations)
        number = self.tokens - self.prefix - len(split.destinations)  # of sources that are kept
        kept = _one_hot_of_least(best, number) if number else None
        is_merged = torch.ones_like(best) if kept is None else 1 - kept.sum(dim=1)
        merged = to_nearest * (is_merged * of_sources)[:, None, :]
        after = [counts[:, : self.prefix]]
        after += [] if kept is None else [(kept @ of_sources[..., None])[..., 0]]
        after += [own + merged.sum(dim=-1)]
        return Merging(self.prefix, split, kept, merged, own[..., None], torch.cat(after, dim=1))

    def extra_repr(self) -> str:
        return f"tokens={self.tokens}, matching={self.matching}"


def merge_macs(tokens: int, merge: TokenMerge) -> tuple[int, int]:
    """MACs of merging `tokens` tokens besides the metric: of the comparison, and for each channel of the tokens."""
    split = split_of(merge.matching, tokens - merge.prefix, merge.tokens - merge.prefix)
    sources, destinations = map(len, split)
    channels = merge.metric.weight.shape[0]
    return sources * destinations * channels, sources * (merge.tokens - merge.prefix)


def _take(x: Tensor, positions: Sequence[int]) -> Tensor:
    """The tokens at these positions: [batch, tokens, ...] -> [batch, positions, ...]"""
    step = positions[1] - positions[0] if len(positions) > 1 else 1
    if tuple(positions) == tuple(range(positions[0], positions[-1] + 1, step)):
        return x[:, positions[0] : positions[-1] + 1 : step]  # a view, and in a graph a slice
    return x[:, torch.tensor(positions, device=x.device)]


def _one_hot(indices: Tensor, size: int) -> Tensor:
    """[...] int64 -> [..., size] float32"""
    return (indices[..., None] == torch.arange(size, device=indices.device)).float()


def _one_hot_of_least(values: Tensor, number: int) -> Tensor:
    """One-hot rows of the `number` smallest values, in order of their index: [batch, n] -> [batch, number, n]"""
    least = values.topk(number, dim=-1, largest=False).indices
    chosen = _one_hot(least, values.shape[-1]).sum(dim=1)  # [batch, n], 1 where chosen
    order = torch.arange(values.shape[-1], device=values.device)
    upto = (order[:, None] <= order).float()
    rank = (chosen @ upto)[:, None, :] - 1  # [batch, 1, n]: index of the row of a chosen value
    rows = torch.arange(number, device=values.device, dtype=rank.dtype)[None, :, None]
    return (rank == rows).float() * chosen[:, None, :]
