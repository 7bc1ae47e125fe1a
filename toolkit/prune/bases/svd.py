"""Query and key units in the basis of the singular vectors of their product.

The attention logits of a head are (W_q x + b_q) . (W_k y + b_k) = [x, 1]^T M [y, 1] with M = [W_q, b_q]^T [W_k, b_k],
of rank qk_dim. With M = U S V^T, the rows of S^1/2 U^T and S^1/2 V^T are new queries and keys with the same logits.
Removing the last units leaves the best approximation of M of lower rank (Eckart and Young, 1936).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from toolkit.errors import UnsupportedModel
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.block import attentions
from toolkit.models.model import Model
from toolkit.prune.bases import Basis
from toolkit.prune.calibration import Calibration


class Svd:
    """Each head's query and key units, sorted by their singular value, largest first."""

    def rotate(self, model: Model, calibration: Calibration) -> Model:
        rotated = model.copied()
        for place, attention in attentions(rotated.module).items():
            if attention.q_norm is not None:
                raise UnsupportedModel(
                    f"basis svd is not for {place}, which normalises its queries and keys", "--basis none"
                )
            _rotate(attention)
        return rotated


@torch.no_grad()
def _rotate(attention: HeadwiseAttention) -> None:
    width = attention.layout.qk_width
    queries, keys = attention.qkv.weight[:width], attention.qkv.weight[width : 2 * width]
    start = 0
    for units, _ in attention.layout.heads:
        rows = slice(start, start + units)
        q = _with_bias(queries[rows], attention.q_bias, rows)
        k = _with_bias(keys[rows], attention.k_bias, rows)
        q, k = _factors(q, k)
        for weight, bias, factor in ((queries, attention.q_bias, q), (keys, attention.k_bias, k)):
            weight[rows] = factor[:, :-1].to(weight.dtype)
            if bias is not None:
                bias[rows] = factor[:, -1].to(bias.dtype)
        start += units


def _with_bias(weight: Tensor, bias: nn.Parameter | None, rows: slice) -> Tensor:
    """[units, width + 1] float64: weights and bias, 0 without one. A factor of M has none either, then."""
    column = weight.new_zeros(len(weight)) if bias is None else bias[rows]
    return torch.cat([weight, column[:, None]], dim=1).double()


def _factors(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """S^1/2 U^T and S^1/2 V^T of q^T k = U S V^T, both [units, width + 1], by way of a [units, units] matrix."""
    (q_basis, q_triangle), (k_basis, k_triangle) = torch.linalg.qr(q.T), torch.linalg.qr(k.T)
    left, singular, right = torch.linalg.svd(q_triangle @ k_triangle.T)
    root = singular.sqrt()[:, None]
    missing = (0, 0, 0, len(q) - len(root))  # the rank is at most width + 1
    return pad(root * (q_basis @ left).T, missing), pad(root * (k_basis @ right.T).T, missing)


PLUGIN: Basis = Svd()
