"""Least squares for errors that a linear layer can correct, from second moments: memory depends on widths only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from toolkit.prune.covariances import gram, with_ones


@dataclass
class ErrorMoments:
    """Moments of a layer's inputs x with a constant 1 appended, and of errors e, over weighted tokens."""

    inputs: Tensor
    """[inputs + 1, inputs + 1] float64: sum of w [x, 1]^T [x, 1]"""
    products: Tensor
    """[inputs + 1, outputs] float64: sum of w [x, 1]^T e"""

    @classmethod
    def of(cls, x: Tensor, errors: Tensor, weights: Tensor) -> ErrorMoments:
        """x [batch, tokens, inputs], errors [batch, tokens, outputs], weights [batch, tokens], at least 0"""
        rows = with_ones(x).flatten(0, 1).double()
        roots = weights.flatten()[:, None].double().sqrt()
        weighted = rows * roots
        return cls(gram(weighted), weighted.T @ (errors.flatten(0, 1).double() * roots))

    def __add__(self, other: ErrorMoments) -> ErrorMoments:
        return ErrorMoments(self.inputs + other.inputs, self.products + other.products)

    def times(self, factor: float) -> ErrorMoments:
        """The moments with all weights multiplied by a factor."""
        return ErrorMoments(self.inputs * factor, self.products * factor)

    def correction(self, damping: float, has_bias: bool) -> tuple[Tensor, Tensor]:
        """dW [outputs, inputs] and db [outputs] that minimise E|dW x + db - e|^2 + lam |dW|^2; without a bias, db is 0.

        lam is `damping` times the mean variance of the inputs.
        """
        total = self.inputs[-1, -1]
        mean, error = self.inputs[-1, :-1] / total, self.products[-1] / total
        if not has_bias:
            mean, error = torch.zeros_like(mean), torch.zeros_like(error)
        matrix = self.inputs[:-1, :-1] - total * torch.outer(mean, mean)
        lam = damping * float(matrix.diagonal().mean())
        matrix.diagonal().add_(lam if lam > 0 else 1.0)  # constant inputs need no change, whatever lam is
        right = self.products[:-1] - total * torch.outer(mean, error)
        change = torch.cholesky_solve(right, torch.linalg.cholesky(matrix)).T
        return change, error - change @ mean


def mixed(domains: Sequence[ErrorMoments]) -> ErrorMoments:
    """The mixture of domains, each scaled to the same sum of E[|x|^2]."""
    squares = [float(moments.inputs.diagonal()[:-1].sum()) for moments in domains]
    scaled = (
        moments.times(1 / square if square > 0 else 1.0) for moments, square in zip(domains, squares, strict=True)
    )
    return reduce(add, scaled)
