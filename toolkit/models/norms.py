"""Norms over the channels of a token, of which pruning may remove some."""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm: TypeAlias = nn.LayerNorm | nn.RMSNorm
NORMS = (nn.LayerNorm, nn.RMSNorm)


def eps_of(norm: Norm) -> float:
    """Epsilon that the norm adds to the variance."""
    return torch.finfo(torch.float32).eps if norm.eps is None else float(norm.eps)


def normed(norm: Norm, x: Tensor, channels: Tensor) -> Tensor:
    """`norm` over these channels only: x [..., width], channels [kept] int64 -> [..., kept]"""
    weight = None if norm.weight is None else norm.weight[channels]
    if isinstance(norm, nn.RMSNorm):
        return F.rms_norm(x[..., channels], (len(channels),), weight, norm.eps)
    bias = None if norm.bias is None else norm.bias[channels]
    return F.layer_norm(x[..., channels], (len(channels),), weight, bias, norm.eps)
