"""One pass of optimal brain surgeon over the inputs of a linear layer (ZipLM, Kurtic et al., 2023).

Input j costs |W_:j|^2 / [H^-1]_jj; removing it updates W <- W - W_:j [H^-1]_j: / [H^-1]_jj, and H^-1 likewise. A
group G costs tr(W_G ([H^-1]_GG)^-1 W_G^T). The costs sum to E|W' x_S - W x|^2 + lam |W' - W|^2 for the best W' (zero
for removed inputs), so that every stop has the weights of a refit by least squares.
"""

from __future__ import annotations

import torch
from torch import Tensor

PANEL = 64
"""Inputs whose updates are applied to the matrices at once. Elimination is pivoted Cholesky factorisation of H^-1, with
the products of a panel as matrix products."""
HELD = 8
"""Removed inputs stay in the matrices, masked, until they are one in so many: taking them out copies the matrices."""


class Elimination:
    """State of an elimination: remaining inputs, their weights, and what was removed."""

    def __init__(self, weight: Tensor, matrix: Tensor) -> None:
        """weight: W [outputs, inputs] float64; matrix: H [inputs, inputs], positive definite."""
        self.removed: list[int] = []
        """Removed inputs in order."""
        self.cost = 0.0
        """Sum of the costs."""
        self._weight, self._before = weight.clone(), weight  # [outputs, held]: W', W
        self._gone = 0.0  # |W|^2 of what is not held
        self._held = torch.arange(weight.shape[1])  # inputs in the matrices, ascending
        self._open = torch.ones_like(self._held, dtype=torch.bool)  # [held]: not removed
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))  # [held, held], of the remaining inputs

    @property
    def remaining(self) -> Tensor:
        """[remaining] int64, ascending"""
        return self._held[self._open]

    @property
    def weight(self) -> Tensor:
        """[outputs, remaining]"""
        return self._weight[:, self._open]

    @property
    def change(self) -> float:
        """|W' - W|^2, with zero for removed inputs."""
        return self._gone + float((self._weight - self._before).square().sum())

    def costs(self) -> Tensor:
        """[remaining]: cost of removing each input alone."""
        return (self._weight.square().sum(dim=0) / self._inverse.diagonal())[self._open]

    def remove_inputs(self, quota: Tensor, segments: Tensor) -> None:
        """Remove inputs one at a time, the cheapest first, `quota[s]` of each segment s.

        segments: [inputs] int64, the segment of each input of the whole layer; quota: [segments] int64.
        """
        quota = quota.clone()
        while (count := int(quota.sum())) > 0:
            self._remove_panel(min(count, PANEL), quota, segments[self._held])

    def group_cost(self, group: Tensor) -> float:
        """Cost of removing these inputs together."""
        return float(self._scaled(group)[1].square().sum())

    def remove_group(self, groups: list[Tensor]) -> int:
        """Remove the cheapest of these groups of inputs; returns its index."""
        costs = [self.group_cost(group) for group in groups]
        chosen = costs.index(min(costs))
        factor, scaled = self._scaled(groups[chosen])
        own = torch.searchsorted(self._held, groups[chosen])
        left = torch.linalg.solve_triangular(factor, self._inverse[own], upper=False).T  # [held, group]
        self._update(left, scaled.T)
        self.removed += groups[chosen].tolist()
        self.cost += costs[chosen]
        self._close(own)
        return chosen

    def _scaled(self, group: Tensor) -> tuple[Tensor, Tensor]:
        """L with L L^T = [H^-1]_GG, and L^-1 W_G^T [group, outputs], whose squares sum to the cost."""
        own = torch.searchsorted(self._held, group)
        factor = torch.linalg.cholesky(self._inverse[own][:, own])
        return factor, torch.linalg.solve_triangular(factor, self._weight[:, own].T, upper=False)

    def _remove_panel(self, count: int, quota: Tensor, segments: Tensor) -> None:
        """Remove `count` inputs, and reduce `quota`. segments: [held]"""
        inverse, weight = self._inverse, self._weight
        left, right = inverse.new_zeros(len(inverse), count), weight.new_zeros(len(weight), count)
        diagonal, energies = inverse.diagonal().clone(), weight.square().sum(dim=0)
        closed = ~self._open
        pivots: list[int] = []
        for step in range(count):
            costs = (energies / diagonal).masked_fill(closed | (quota[segments] == 0), torch.inf)
            pivot = int(costs.argmin())
            before, row, root = left[:, :step], left[pivot, :step], diagonal[pivot].sqrt()
            column = (inverse[:, pivot] - before @ row) / root
            values = (weight[:, pivot] - right[:, :step] @ row) / root
            products = values @ weight - before @ (values @ right[:, :step])
            energy = values.square().sum()
            energies += column * (column * energy - 2 * products)
            diagonal -= column.square()
            left[:, step], right[:, step] = column, values
            self.cost += float(energy)
            closed[pivot] = True
            quota[segments[pivot]] -= 1
            pivots.append(pivot)
        self._update(left, right)
        self.removed += self._held[pivots].tolist()
        self._close(torch.tensor(pivots))

    def _update(self, left: Tensor, right: Tensor) -> None:
        """H^-1 -= left left^T and W -= right left^T: left [held, removed], right [outputs, removed]"""
        self._inverse.addmm_(left, left.T, alpha=-1)
        self._weight.addmm_(right, left.T, alpha=-1)

    def _close(self, where: Tensor) -> None:
        """The inputs at these positions of the matrices are removed."""
        self._open[where] = False
        self._weight[:, where] = 0.0
        if HELD * int(self._open.sum()) <= (HELD - 1) * len(self._held):
            self._gone += float(self._before[:, ~self._open].square().sum())
            self._weight, self._before = self._weight[:, self._open], self._before[:, self._open]
            self._inverse = self._inverse[self._open][:, self._open]
            self._held = self._held[self._open]
            self._open = torch.ones_like(self._held, dtype=torch.bool)
