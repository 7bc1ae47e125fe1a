"""Query, key and value units of each head in the bases in which the first units matter most on calibration images.

Attention logits and outputs do not change, but units come out sorted: keeping the first r query/key units of a head is
the best approximation of its logits of rank r, and keeping the first r value units that of its output. `spectra` has
the formulas and the errors. The mean output of each head moves from the bias of its values to that of the projection:
attention weights sum to 1, so this is exact, and removed value units then have no mean.

Norms of queries and keys depend on the basis, so that attention with them is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.errors import UnsupportedModel
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.block import attentions
from toolkit.models.model import Model
from toolkit.prune.attention_probes import KeyMean, runs
from toolkit.prune.bases import Basis
from toolkit.prune.calibration import Calibration
from toolkit.prune.spectra import (
    AttentionMoments,
    attention_moments,
    means_move,
    output_weight,
    qk_basis,
    v_basis,
)
from toolkit.section import Section


class Settings(Section):
    key_mean: KeyMean = "attended"
    """Mean that keys are centred on: that of a query's attention (attended), or of all keys of an image (uniform)."""


@dataclass(frozen=True)
class Svd(Basis):
    """Units of each head sorted by their singular value, largest first."""

    settings: Settings = Settings()

    def check(self, model: Model) -> None:
        """Raise UnsupportedModel for norms of queries and keys."""
        for place, attention in attentions(model.module).items():
            if attention.q_norm is not None:
                raise UnsupportedModel(
                    f"basis svd is not for {place}, which normalises its queries and keys", "--basis none"
                )

    def rotate(self, model: Model, calibration: Calibration) -> Model:
        self.check(model)
        rotated = model.copied()
        targets = attentions(rotated.module)
        for place, _, moments in attention_moments(model, calibration, self.settings.key_mean):
            _rotate(targets[place], moments)
        return rotated


@torch.no_grad()
def _rotate(attention: HeadwiseAttention, moments: AttentionMoments) -> None:
    """Change the basis of all heads."""
    width = attention.layout.qk_width
    queries, keys, values = attention.qkv.weight.split([width, width, attention.layout.v_width])
    for run in runs([qk for qk, _ in attention.layout.heads]):
        new_q, new_k, _ = qk_basis(moments.queries.uncentred[run, run], moments.keys.uncentred[run, run])
        _multiply(queries, attention.q_bias, run, new_q)
        _multiply(keys, attention.k_bias, run, new_k)
    if means_move(attention):
        _move_means(attention, moments.values.mean)
    covariance = moments.values.about(means_move(attention))
    for run in runs([v for _, v in attention.layout.heads]):
        weight = output_weight(attention, run)
        basis, inverse, _ = v_basis(covariance[run, run], weight)
        _multiply(values, attention.v_bias, run, basis)
        attention.proj.weight[:, run] = (inverse @ weight).T.to(attention.proj.weight)


def _multiply(weight: Tensor, bias: nn.Parameter | None, run: slice, basis: Tensor) -> None:
    """Replace the units x of `run` by x T: T [units, units] float64, weight [all units, width], bias [all units]."""
    weight[run] = (basis.T @ weight[run].double().cpu()).to(weight)
    if bias is not None:
        bias[run] = (basis.T @ bias[run].double().cpu()).to(bias)


def _move_means(attention: HeadwiseAttention, mean: Tensor) -> None:
    """Subtract the mean outputs [V] of all heads from the bias of their values, and add them to the projection's."""
    assert attention.v_bias is not None
    shift = attention.proj.weight.double().cpu() @ mean
    attention.v_bias.sub_(mean.to(attention.v_bias))
    attention.proj.bias.add_(shift.to(attention.proj.bias))


PLUGIN: Basis = Svd()
