"""Queries and keys of attention layers, whose second moments `covariances` collects.

The softmax of a query ignores what all keys share, so that keys count by their difference to a mean key.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.models.attention import HeadwiseAttention
from toolkit.prune.covariances import Probe, sums_of

KeyMean: TypeAlias = Literal["attended", "uniform"]
"""The mean key: of a query, with its attention as weights (attended), or of all keys of an image (uniform).

With weights P_ij of attention, a change d_ij of the logits changes the distribution over keys by a Kullback-Leibler
divergence of 1/2 Var_P(d_i) to second order. For independent queries and keys, E[Var_P(q_i D k_j)] = tr(S_q D S_k D^T)
with S_k the covariance of keys under P, averaged over queries. `uniform` takes equal weights instead.
"""


def queries_of(place: str, attention: HeadwiseAttention) -> Probe:
    """Queries [Q] of the attention at `place`, without the softmax scale and before normalisation."""
    return Probe(place, attention.layout.qk_width, lambda received: sums_of(_projected(attention, received[0], 0)))


def keys_of(place: str, attention: HeadwiseAttention, key_mean: KeyMean = "attended") -> Probe:
    """Keys [Q] of the attention at `place`, minus a mean key. Between heads, attended keys have no moments."""

    def uniform(received: Sequence[Tensor]) -> Tensor:
        projected = _projected(attention, received[0], 1)
        return sums_of(projected - projected.mean(dim=1, keepdim=True))

    def attended(received: Sequence[Tensor]) -> Tensor:
        x, key_bias = received[0], received[1] if len(received) > 1 else None
        return _attended_sums(attention, x, key_bias)

    return Probe(place, attention.layout.qk_width, attended if key_mean == "attended" else uniform)


def runs(widths: Sequence[int]) -> list[slice]:
    """Consecutive slices of these lengths."""
    return [slice(start, end) for start, end in pairwise(accumulate(widths, initial=0))]


def _attended_sums(attention: HeadwiseAttention, x: Tensor, key_bias: Tensor | None) -> Tensor:
    """[Q + 1, Q + 1]: sum over queries of each head's covariance of keys under the query's attention."""
    queries, keys = _projected(attention, x, 0), _projected(attention, x, 1)  # [batch, tokens, Q]
    total = x.new_zeros(queries.shape[-1] + 1, queries.shape[-1] + 1, dtype=torch.float64)
    position = attention.position_bias()
    for head, run in enumerate(runs([qk for qk, _ in attention.layout.heads])):
        q, k = queries[..., run], keys[..., run]
        logits = attention.scale * q @ k.transpose(1, 2)  # [batch, queries, keys]
        if position is not None:
            logits = logits + position[head]
        if key_bias is not None:
            logits = logits + key_bias[:, None]
        weights = logits.softmax(dim=-1)
        k = k - k.mean(dim=1, keepdim=True)  # for precision: the difference below is of small numbers
        means = (weights @ k).flatten(0, 1).double()  # [batch * queries, units]
        received = weights.sum(dim=1).flatten().double()[:, None]  # [batch * keys, 1]
        k = k.flatten(0, 1).double()
        total[run, run] = (received * k).T @ k - means.T @ means
    total[-1, -1] = x.shape[0] * x.shape[1]
    return total


def _projected(attention: HeadwiseAttention, x: Tensor, part: int) -> Tensor:
    """[batch, tokens, Q]: queries (part 0) or keys (part 1)"""
    width = attention.layout.qk_width
    bias = (attention.q_bias, attention.k_bias)[part]
    return F.linear(x, attention.qkv.weight[part * width : (part + 1) * width], bias)
