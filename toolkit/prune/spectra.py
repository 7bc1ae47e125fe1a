"""Best bases of query/key and value units of attention heads, and the squared error of keeping fewer units.

Queries and keys of a head: attention logits are q . k, and softmax ignores what is the same for all keys, so k is the
difference to a mean key (`attention_probes`). With S_q = E[q^T q], S_k = E[k^T k] and S_q^1/2 S_k^1/2 = U S V^T, the
new units are q S_q^-1/2 U S^1/2 and k S_k^-1/2 V S^1/2. Among all products of rank r, their first r units have the
smallest expected squared error of the logits for independent q and k: sum of s_i^2 over i > r (Eckart and Young, 1936).

Values of a head: its output o (after mixing by attention) enters o W_o. With S_o = Cov(o) and S_o^1/2 W_o = U S V^T,
the new units are o S_o^-1/2 U. Their first r units have the smallest expected squared error of o W_o, whose mean moves
into the bias: sum of s_i^2 over i > r.

Singular values do not depend on the basis that a model is in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from toolkit.models.attention import HeadwiseAttention
from toolkit.models.block import attentions
from toolkit.models.model import Model
from toolkit.prune.attention_probes import KeyMean, keys_of, queries_of, runs
from toolkit.prune.calibration import Calibration
from toolkit.prune.covariances import Moments, Probe, collect, input_of

FLOOR = 1e-6
"""Minimum eigenvalue of a second-moment matrix, relative to its largest: units that are constant stay in the basis."""
Spectra: TypeAlias = dict[str, tuple[Tensor, ...]]
"""For each attention and head: [units + 1] float64, the squared error of keeping the first r units, r = 0 ... units."""


@dataclass(frozen=True)
class AttentionMoments:
    """Second moments of an attention's queries [Q], keys [Q] minus a mean key, and mixed values [V]."""

    queries: Moments
    keys: Moments
    values: Moments


def attention_moments(
    model: Model, calibration: Calibration, key_mean: KeyMean = "attended"
) -> Iterator[tuple[str, HeadwiseAttention, AttentionMoments]]:
    """Each attention with its name and moments, for which the source domains are mixed. DataError as in `collect`."""
    probes: dict[str, Probe] = {}
    for place, attention in attentions(model.module).items():
        probes[f"queries of {place}"] = queries_of(place, attention)
        probes[f"keys of {place}"] = keys_of(place, attention, key_mean)
        probes[f"{place}.proj"] = input_of(f"{place}.proj", model.module)
    found = collect(model.module, probes, calibration)
    for place, attention in attentions(model.module).items():
        queries, centred, values = (next(found)[1].mixed() for _ in range(3))
        yield place, attention, AttentionMoments(queries, centred, values)


def qk_basis(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A and B with A B^T = I, and singular values [units], largest first, of one head's S_q and S_k [units, units].

    New queries are q A, new keys k B: both have the second moments diag(s).
    """
    (root_q, inverse_q), (root_k, inverse_k) = roots(queries), roots(keys)
    left, singular, right = torch.linalg.svd(root_q @ root_k)
    scale = singular.sqrt()  # positive, because eigenvalues are
    return inverse_q @ left * scale, inverse_k @ right.T * scale, singular


def v_basis(outputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """T and T^-1 [units, units], and singular values [units], largest first, of one head's S_o [units, units].

    weight: W_o [units, width]. The new output is o T, the new weight T^-1 W_o.
    """
    root, inverse = roots(outputs)
    product = root @ weight
    left, singular, _ = torch.linalg.svd(product, full_matrices=len(product) > product.shape[1])
    missing = singular.new_zeros(len(product) - len(singular))
    return inverse @ left, left.T @ root, torch.cat([singular, missing])


def roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square root of a positive semidefinite matrix with eigenvalues of at least FLOOR, and its
    inverse."""
    values, vectors = torch.linalg.eigh(matrix)
    largest = float(values[-1])
    values = values.clamp(min=FLOOR * largest) if largest > 0 else torch.ones_like(values)
    return vectors * values.sqrt() @ vectors.T, vectors * values.rsqrt() @ vectors.T


def means_move(attention: HeadwiseAttention) -> bool:
    """Whether mean outputs of heads can be moved exactly from the bias of the values to that of the projection."""
    return attention.v_bias is not None and attention.proj.bias is not None


def qk_spectrum(model: Model, calibration: Calibration, key_mean: KeyMean = "attended") -> Spectra:
    """Expected squared error of an attention logit if a head keeps r query/key units of its best basis: over a query's
    attention for the attended mean, over all keys of an image for the uniform one."""
    return {
        place: tuple(
            _errors(
                attention.scale * qk_basis(moments.queries.uncentred[run, run], moments.keys.uncentred[run, run])[2]
            )
            for run in runs([qk for qk, _ in attention.layout.heads])
        )
        for place, attention, moments in attention_moments(model, calibration, key_mean)
    }


def v_spectrum(model: Model, calibration: Calibration) -> Spectra:
    """Expected squared error of the attention's output, summed over channels, if a head keeps r value units of its best
    basis."""
    return {
        place: tuple(
            _errors(v_basis(moments.values.about(means_move(attention))[run, run], output_weight(attention, run))[2])
            for run in runs([v for _, v in attention.layout.heads])
        )
        for place, attention, moments in attention_moments(model, calibration)
    }


def output_weight(attention: HeadwiseAttention, run: slice) -> Tensor:
    """W_o [units, width] float64 of the head with these value units."""
    return attention.proj.weight.detach()[:, run].T.double().cpu()


def _errors(singular: Tensor) -> Tensor:
    """[units + 1]: sums of the squares of all but the first r singular values."""
    zero = singular.new_zeros(1)
    return torch.cat([singular.square().flip(0).cumsum(0).flip(0), zero])
