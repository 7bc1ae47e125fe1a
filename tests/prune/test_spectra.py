"""Bases and spectra of attention heads against literal formulas in numpy, on real and on random models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from toolkit.dg.batches import Batch
from toolkit.models.block import attentions
from toolkit.models.model import Model
from toolkit.prune import bases
from toolkit.prune.calibration import Calibration
from toolkit.prune.spectra import qk_basis, qk_spectrum, roots, v_basis, v_spectrum

Array = npt.NDArray[np.float64]


def head_rows(model: Model, place: str, images: Tensor) -> dict[str, Array]:
    """Literal queries, keys (centred per image) and mixed values [batch, tokens, heads, 8] of one attention."""
    attention = attentions(model.module)[place]
    received: dict[str, Tensor] = {}
    hooks = [
        attention.register_forward_hook(lambda _, inputs, output: received.update(x=inputs[0])),
        attention.proj.register_forward_hook(lambda _, inputs, output: received.update(mixed=inputs[0])),
    ]
    with torch.inference_mode():
        model.module.eval()(images)
        packed = torch.nn.functional.linear(received["x"], attention.qkv.weight, attention.packed_bias())
    for hook in hooks:
        hook.remove()
    queries, keys, _ = (
        packed.unflatten(-1, (9, 8))
        .double()
        .numpy()
        .transpose(0, 1, 2, 3)
        .reshape((*packed.shape[:2], 3, 3, 8))
        .transpose(2, 0, 1, 3, 4)
    )
    mixed = received["mixed"].unflatten(-1, (3, 8)).double().numpy()
    return {"queries": queries, "keys": keys - keys.mean(axis=1, keepdims=True), "mixed": mixed}


def second(rows: Array) -> Array:
    """E[x^T x] of [batch, tokens, units]"""
    flat = rows.reshape(-1, rows.shape[-1])
    return flat.T @ flat / len(flat)


def test_query_and_key_errors_by_the_literal_formulas(
    small: Callable[..., Model], calibration: Calibration, batches: list[Batch]
) -> None:
    """sum of s_i^2 over i > r, with s the singular values of S_q^1/2 S_k^1/2, times the squared softmax scale."""
    model = small()
    rows = head_rows(model, "blocks.1.attn", torch.cat([batch.images for batch in batches]))
    scale = attentions(model.module)["blocks.1.attn"].scale
    errors = qk_spectrum(model, calibration, "uniform")["blocks.1.attn"]
    for head in range(3):
        s_q, s_k = second(rows["queries"][:, :, head]), second(rows["keys"][:, :, head])
        singular = np.linalg.svd(sqrtm(s_q).real @ sqrtm(s_k).real, compute_uv=False) * scale
        expected = [(singular[kept:] ** 2).sum() for kept in range(9)]
        np.testing.assert_allclose(errors[head].numpy(), expected, rtol=1e-3, atol=1e-4 * expected[0])


def test_value_errors_by_the_literal_formulas(
    small: Callable[..., Model], calibration: Calibration, batches: list[Batch]
) -> None:
    """sum of s_i^2 over i > r, with s the singular values of Cov(o)^1/2 W_o: the best rank-r map of outputs."""
    model = small()
    rows = head_rows(model, "blocks.0.attn", torch.cat([batch.images for batch in batches]))["mixed"]
    weight = attentions(model.module)["blocks.0.attn"].proj.weight.detach().double().numpy()
    errors = v_spectrum(model, calibration)["blocks.0.attn"]
    for head in range(3):
        outputs = rows[:, :, head].reshape(-1, 8)
        projected = (outputs - outputs.mean(axis=0)) @ weight[:, 8 * head : 8 * head + 8].T  # o W_o
        singular = np.linalg.svd(projected / np.sqrt(len(projected)), compute_uv=False)
        expected = [(singular[kept:] ** 2).sum() for kept in range(9)]
        np.testing.assert_allclose(errors[head].numpy(), expected, rtol=1e-3, atol=1e-4 * expected[0])


def matrices(seed: int, units: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(2, 20, units, generator=generator, dtype=torch.float64)
    return parts[0].T @ parts[0], parts[1].T @ parts[1]


def test_the_basis_makes_both_moments_diagonal_and_keeps_products() -> None:
    queries, keys = matrices(0)
    left, right, singular = qk_basis(queries, keys)
    identity = torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(left @ right.T, identity)
    torch.testing.assert_close(left.T @ queries @ left, singular.diag())
    torch.testing.assert_close(right.T @ keys @ right, singular.diag())
    assert singular.tolist() == sorted(singular.tolist(), reverse=True)


def test_no_other_product_of_rank_r_has_less_error() -> None:
    """Against random rank-4 maps: E|q (D) k|^2 = tr(D^T S_q D S_k) for the change D of the bilinear form."""
    queries, keys = matrices(1)
    left, right, singular = qk_basis(queries, keys)

    def error(form: Tensor) -> float:
        change = form - torch.eye(6, dtype=torch.float64)
        return float((change.T @ queries @ change @ keys).trace())

    ours = error(left[:, :4] @ right[:, :4].T)
    assert ours == pytest.approx(float(singular[4:].square().sum()))
    generator = torch.Generator().manual_seed(2)
    for scale in (0.01, 0.1, 1.0):
        noise = scale * torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
        assert error((left[:, :4] + noise[0]) @ (right[:, :4] + noise[1]).T) > ours


@pytest.mark.parametrize("width", [4, 6, 9])
def test_the_value_basis_keeps_the_product_and_whitens(width: int) -> None:
    """Also for more units than channels."""
    outputs, _ = matrices(3)
    weight = torch.randn(6, width, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    basis, inverse, singular = v_basis(outputs, weight)
    identity = torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(basis @ inverse, identity)
    torch.testing.assert_close(basis.T @ outputs @ basis, identity)
    norms = (inverse @ weight).square().sum(dim=1)
    torch.testing.assert_close(norms, singular.square(), atol=1e-9, rtol=1e-7)
    assert len(singular) == 6


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_roots_of_singular_matrices_are_invertible(rank: int) -> None:
    factor = torch.randn(rank, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = factor.T @ factor if rank else torch.zeros(5, 5, dtype=torch.float64)
    root, inverse = roots(matrix)
    torch.testing.assert_close(root @ inverse, torch.eye(5, dtype=torch.float64), atol=1e-9, rtol=0)
    if rank:
        torch.testing.assert_close(root @ root, matrix, atol=1e-5 * float(matrix.trace()), rtol=0)


def test_spectra_do_not_depend_on_the_basis(small: Callable[..., Model], calibration: Calibration) -> None:
    model = small(depth=1)
    rotated = bases.rotate("svd", model, calibration)
    for spectrum in (qk_spectrum, v_spectrum):
        for one, other in zip(
            spectrum(model, calibration).values(), spectrum(rotated, calibration).values(), strict=True
        ):
            for before, after in zip(one, other, strict=True):
                torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4 * float(before[0]))
