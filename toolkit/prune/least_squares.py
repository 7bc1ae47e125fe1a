"""Least squares from second moments: weights of a linear layer that loses some of its inputs.

With H = E[x^T x] + lam I and the old weights W_S of the kept inputs S, the weights that minimise
E|W' x_S - W x|^2 + lam |W' - W_S|^2 are W' = W H_:S (H_SS)^-1. This is ridge regression for the change of the weights,
and equals the update of optimal brain surgeon for the same removed inputs (Hassibi and Stork, 1993).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from toolkit.prune.covariances import DomainMoments, Moments
from toolkit.records import Aggregate

Solve: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(weight [outputs, inputs], H [inputs, inputs], kept [kept]) -> W' [outputs, kept]"""

DAMPING = 1e-3
"""Default of lam, as a fraction of the mean variance of the inputs."""
ROUNDS = 30
"""Rounds of reweighting the domains for the smallest largest error."""


def damped(moments: Moments, damping: float, centred: bool = True) -> Tensor:
    """H [inputs, inputs] = C + lam I, for the covariance or the uncentred second moments C."""
    matrix = moments.about(centred).clone()
    matrix.diagonal().add_(damping_of(moments, damping, centred))
    return matrix


def damping_of(moments: Moments, damping: float, centred: bool = True) -> float:
    """lam: `damping` times the mean diagonal of C, or more if there are few tokens.

    With fewer tokens than inputs C is singular, and with few tokens its small eigenvalues are too small. Then lam is
    that of the oracle-approximating shrinkage (Chen et al., "Shrinkage algorithms for MMSE covariance estimation",
    2010), which vanishes as 1 / tokens.
    """
    matrix = moments.about(centred)
    scale = float(matrix.diagonal().mean())
    lam = scale * max(damping, _shrinkage(matrix, moments.tokens))
    return lam if lam > 0 else 1.0  # constant inputs need no repair, whatever lam is


def _shrinkage(covariance: Tensor, tokens: int) -> float:
    """lam relative to the mean diagonal: rho / (1 - rho) for the shrunk matrix (1 - rho) C + rho mean(diag C) I."""
    size = len(covariance)
    square, trace = float(covariance.square().sum()), float(covariance.trace()) ** 2
    spread = square - trace / size
    if not spread > 0:
        return 0.0
    rho = ((1 - 2 / size) * square + trace) / ((tokens + 1 - 2 / size) * spread)
    return rho / (1 - rho) if rho < 0.99 else 99.0


def refit(weight: Tensor, matrix: Tensor, kept: Tensor) -> Tensor:
    """W' by the normal equations of the kept inputs."""
    lost = others(kept, len(matrix))
    factor = torch.linalg.cholesky(matrix[kept][:, kept])
    change = torch.cholesky_solve(matrix[kept][:, lost] @ weight[:, lost].T, factor)  # [kept, outputs]
    return weight[:, kept] + change.T


class NestedRefits:
    """W' of `refit` for nested sets of kept inputs, from one factorisation.

    With the inputs in an order of which every kept set is a beginning, and H = L L^T, H_RS (H_SS)^-1 is
    L_RS (L_SS)^-1: the factor of H_SS is a part of L.
    """

    def __init__(self, weight: Tensor, matrix: Tensor, order: Tensor) -> None:
        """weight [outputs, inputs], H [inputs, inputs], order [inputs] int64"""
        self._weight, self._order = weight[:, order], order
        self._factor = torch.linalg.cholesky(matrix[order][:, order])

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` inputs [count] in ascending order, and W' [outputs, count]."""
        own, weight = self._factor[:count, :count], self._weight
        lost = weight[:, count:] @ self._factor[count:, :count]
        fitted = weight[:, :count] + torch.linalg.solve_triangular(own, lost, upper=False, left=False)
        kept, places = self._order[:count].sort()
        return kept, fitted[:, places]


def obs_update(weight: Tensor, matrix: Tensor, kept: Tensor) -> Tensor:
    """W' by the update of optimal brain surgeon: W - W_:R ([H^-1]_RR)^-1 [H^-1]_R: for the removed inputs R."""
    lost = others(kept, len(matrix))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    factor = torch.linalg.cholesky(inverse[lost][:, lost])
    return weight[:, kept] - weight[:, lost] @ torch.cholesky_solve(inverse[lost][:, kept], factor)


def others(kept: Tensor, size: int) -> Tensor:
    """[size - kept] ascending indices that are not in `kept`."""
    mask = torch.ones(size, dtype=torch.bool)
    mask[kept] = False
    return mask.nonzero().flatten()


@dataclass(frozen=True)
class Repaired:
    """Weights of a linear layer for the inputs that it keeps."""

    weight: Tensor
    """[outputs, kept] float64"""
    shift: Tensor
    """[outputs] float64, to be added to the bias; zeros for a layer without bias."""


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer with the second moments of its inputs, from which repaired weights follow for any kept inputs."""

    weight: Tensor
    """[outputs, inputs] float64"""
    has_bias: bool
    """Whether the means of removed inputs can be moved into a bias."""
    moments: DomainMoments
    damping: float = DAMPING

    @cached_property
    def mixture(self) -> Moments:
        """The mixture of the domains with equal weights."""
        return self.moments.mixed()

    @cached_property
    def energy(self) -> float:
        """Variance of the output, or its E|W x|^2 without a bias: the error without any input."""
        return self._energy(self.mixture)

    @cached_property
    def lam(self) -> float:
        """Damping of the changes of weights in the mixture."""
        return damping_of(self.mixture, self.damping, self.has_bias)

    def repaired(self, kept: Tensor, aggregate: Aggregate = "mean", solve: Solve = refit) -> Repaired:
        """Weights for the inputs `kept` [kept] int64, in this order."""
        domains = tuple(self.moments.by_domain)
        if aggregate == "mean" or len(domains) == 1:
            return self._fitted(self.mixture, kept, solve)
        # Multiplicative weights: the domain with the largest error counts more in the next round.
        weights = dict.fromkeys(domains, 1 / len(domains))
        best, least = self._fitted(self.mixture, kept, solve), float("inf")
        for number in range(ROUNDS):
            candidate = self._fitted(self.moments.mixed(weights), kept, solve)
            errors = self.relative_errors(kept, candidate)
            worst = max(errors.values())
            if worst < least:
                best, least = candidate, worst
            if not worst > 0:
                break
            step = 2 / (1 + number) ** 0.5
            raw = {name: weights[name] * math.exp(step * errors[name] / worst) for name in domains}
            weights = {name: value / sum(raw.values()) for name, value in raw.items()}
        return best

    def error(self, kept: Tensor, repaired: Repaired, moments: Moments | None = None) -> float:
        """E|W' x_S + shift - W x|^2 per token, in the mixture of the domains by default."""
        moments = self.mixture if moments is None else moments
        change = -self.weight
        change[:, kept] += repaired.weight
        extended = torch.cat([change, repaired.shift[:, None]], dim=1)
        return float((extended @ moments.second * extended).sum())

    def _energy(self, moments: Moments) -> float:
        return float((self.weight @ moments.about(self.has_bias) * self.weight).sum())

    def relative_errors(self, kept: Tensor, repaired: Repaired) -> dict[str, float]:
        """Error divided by energy in each domain; 0 for an output that is constant in a domain."""
        result = {}
        for name, moments in self.moments.by_domain.items():
            energy = self._energy(moments)
            result[name] = self.error(kept, repaired, moments) / energy if energy > 0 else 0.0
        return result

    def with_shift(self, weight: Tensor, kept: Tensor, moments: Moments | None = None) -> Repaired:
        """These weights [outputs, kept] with the change of the bias that keeps the mean output."""
        mean = (self.mixture if moments is None else moments).mean
        shift = self.weight @ mean - weight @ mean[kept]
        return Repaired(weight, shift if self.has_bias else torch.zeros_like(shift))

    def _fitted(self, moments: Moments, kept: Tensor, solve: Solve) -> Repaired:
        return self.with_shift(solve(self.weight, damped(moments, self.damping, self.has_bias), kept), kept, moments)
