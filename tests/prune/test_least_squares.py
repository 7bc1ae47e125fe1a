"""Repaired weights against numpy's least squares, and the smallest largest error over domains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from toolkit.prune.covariances import DomainMoments, Moments
from toolkit.prune.least_squares import LinearLayer, Repaired, damped, damping_of, obs_update, refit

INPUTS, OUTPUTS, KEPT = 9, 4, torch.tensor([7, 0, 3, 2, 8])


def correlated(seed: int, tokens: int = 2000) -> Tensor:
    """[tokens, INPUTS] float64, correlated, with a mean."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(INPUTS, INPUTS, generator=generator, dtype=torch.float64)
    return torch.randn(tokens, INPUTS, generator=generator, dtype=torch.float64) @ mixing + 2 * mixing[0]


def moments_of(rows: Tensor) -> Moments:
    extended = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
    return Moments(extended.T @ extended / len(rows), len(rows))


def layer_of(*domains: Tensor, has_bias: bool = True, damping: float = 1e-2) -> LinearLayer:
    weight = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    named = {str(index): moments_of(rows) for index, rows in enumerate(domains)}
    return LinearLayer(weight, has_bias, DomainMoments(named), damping)


@pytest.mark.parametrize("solve", [refit, obs_update])
@pytest.mark.parametrize("has_bias", [True, False])
def test_repaired_weights_are_the_least_squares_solution(solve: object, has_bias: bool) -> None:
    """Literally: rows of all tokens, a column of ones, and rows that damp the change of each weight."""
    rows = correlated(0)
    layer = layer_of(rows, has_bias=has_bias)
    repaired = layer.repaired(KEPT, solve=solve)  # type: ignore[arg-type]
    matrix = moments_of(rows).about(has_bias)
    lam = damping_of(moments_of(rows), 1e-2, has_bias)
    assert lam == pytest.approx(1e-2 * float(matrix.diagonal().mean()))
    x, weight = rows.numpy(), layer.weight.numpy()
    size = len(KEPT)
    left = np.concatenate([x[:, KEPT], np.ones((len(x), 1))[:, : int(has_bias)]], axis=1) / np.sqrt(len(x))
    damping = np.sqrt(lam) * np.eye(size, left.shape[1])
    right = x @ weight.T / np.sqrt(len(x))
    solution, *_ = np.linalg.lstsq(
        np.concatenate([left, damping]), np.concatenate([right, np.sqrt(lam) * weight[:, KEPT].T]), rcond=None
    )
    np.testing.assert_allclose(repaired.weight.numpy(), solution[:size].T, atol=1e-10)
    expected = solution[size] if has_bias else np.zeros(OUTPUTS)
    np.testing.assert_allclose(repaired.shift.numpy(), expected, atol=1e-9)
    residual = x[:, KEPT] @ repaired.weight.numpy().T + repaired.shift.numpy() - x @ weight.T
    assert layer.error(KEPT, repaired) == pytest.approx(float((residual**2).sum(axis=1).mean()))


def test_the_error_of_no_input_is_the_energy() -> None:
    for has_bias in (True, False):
        layer = layer_of(correlated(0), has_bias=has_bias)
        none = torch.zeros(0, dtype=torch.long)
        repaired = layer.with_shift(layer.weight[:, none], none)
        assert layer.error(none, repaired) == pytest.approx(layer.energy)


def test_few_tokens_are_damped_more() -> None:
    """As the oracle-approximating shrinkage of scikit-learn, whose covariance is (1 - rho) C + rho mean(diag C) I."""
    from sklearn.covariance import oas

    for tokens in (5, 30):  # fewer than inputs, and few
        moments = moments_of(correlated(1, tokens))
        covariance, rho = oas(correlated(1, tokens).numpy())
        matrix = damped(moments, 1e-6)
        ours = matrix / float(matrix.trace()) * float(moments.covariance.trace())
        assert rho > 1e-3
        np.testing.assert_allclose(ours.numpy(), covariance, rtol=0.05, atol=0.05 * covariance.max())
        assert bool((torch.linalg.eigvalsh(matrix) > 0).all())
    many = moments_of(correlated(1, 100_000))
    assert damping_of(many, 1e-2) == pytest.approx(1e-2 * float(many.covariance.diagonal().mean()))


def test_constant_inputs_need_no_images_to_be_repaired() -> None:
    layer = layer_of(torch.full((20, INPUTS), 0.5, dtype=torch.float64))
    repaired = layer.repaired(KEPT)
    torch.testing.assert_close(repaired.weight, layer.weight[:, KEPT])
    assert layer.error(KEPT, repaired) == pytest.approx(0, abs=1e-12)


def test_worst_minimises_the_largest_error() -> None:
    """Two domains: the smallest largest relative error is on the curve of all mixtures of the two."""
    layer = layer_of(correlated(2), 3 * correlated(3))

    def worst(repaired: Repaired) -> float:
        return max(layer.relative_errors(KEPT, repaired).values())

    def at(weight: float) -> float:
        mixture = layer.moments.mixed({"0": weight, "1": 1 - weight})
        return worst(layer.with_shift(refit(layer.weight, damped(mixture, layer.damping), KEPT), KEPT, mixture))

    best = minimize_scalar(at, bounds=(0, 1), method="bounded")
    found = worst(layer.repaired(KEPT, "worst"))
    assert found < worst(layer.repaired(KEPT, "mean"))
    assert found == pytest.approx(best.fun, rel=0.02)
