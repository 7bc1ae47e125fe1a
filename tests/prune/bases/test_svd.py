from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from toolkit.errors import CheckFailed, UnknownName
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.block import attentions
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.prune import bases
from toolkit.prune.bases import svd
from toolkit.prune.calibration import Calibration
from toolkit.records import Cut

NAMES = ("vit_tiny_patch16_224", "beit_base_patch16_224")


def products(attention: HeadwiseAttention) -> list[Tensor]:
    """The matrix M of each head, whose logits are [x, 1]^T M [y, 1]."""
    width = attention.layout.qk_width
    parts = []
    for first, bias in ((0, attention.q_bias), (width, attention.k_bias)):
        column = torch.zeros(width) if bias is None else bias.detach()
        parts.append(torch.cat([attention.qkv.weight.detach()[first : first + width], column[:, None]], dim=1).double())
    sizes = [qk for qk, _ in attention.layout.heads]
    return [q.T @ k for q, k in zip(parts[0].split(sizes), parts[1].split(sizes), strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_the_rotated_model_has_the_same_products_sorted_by_energy(
    uneven: Callable[..., Model], calibration: Calibration, name: str
) -> None:
    model = uneven(name)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    rotated = bases.rotate("svd", model, calibration)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    for old, new in zip(attentions(model.module).values(), attentions(rotated.module).values(), strict=True):
        assert not torch.equal(old.qkv.weight, new.qkv.weight)
        start = 0
        for expected, actual, (qk, _) in zip(products(old), products(new), old.layout.heads, strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
            singular = torch.linalg.svdvals(expected)[:qk]
            assert singular[0] > 0
            norms = new.qkv.weight.detach().double()[start : start + qk].square().sum(dim=1)
            if new.q_bias is not None:
                norms += new.q_bias.detach().double()[start : start + qk].square()
            torch.testing.assert_close(norms, singular, atol=1e-4, rtol=1e-3)
            start += qk


def test_removing_the_last_unit_is_the_best_approximation(
    small: Callable[..., Model], calibration: Calibration
) -> None:
    model = small(depth=1)
    rotated = bases.rotate("svd", model, calibration)
    slim = remove(rotated, [Cut("blocks.0.attn", "qk", (7, 15, 23))]).model  # 3 heads of 8 units
    (source,), (cut,) = attentions(model.module).values(), attentions(slim.module).values()
    for expected, actual in zip(products(source), products(cut), strict=True):
        left, singular, right = torch.linalg.svd(expected)
        best = left[:, :7] * singular[:7] @ right[:7]
        torch.testing.assert_close(actual, best, atol=1e-5, rtol=1e-4)


def test_more_units_than_channels(small: Callable[..., Model], calibration: Calibration) -> None:
    model = remove(small(depth=1), [Cut("residual", "embed", tuple(range(20)))]).model  # 8 units, 4 channels and a bias
    rotated = bases.rotate("svd", model, calibration)
    (attention,) = attentions(rotated.module).values()
    assert not attention.qkv.weight[5:8].any()


def test_a_basis_that_changes_the_logits_is_an_error(
    small: Callable[..., Model], calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(attention: nn.Module) -> None:
        with torch.no_grad():
            next(attention.parameters()).mul_(1.01)

    monkeypatch.setattr(svd, "_rotate", wrong)
    with pytest.raises(CheckFailed, match="basis 'svd' changes the model's logits by"):
        bases.rotate("svd", small(), calibration)


def test_none_is_the_model_itself(small: Callable[..., Model], calibration: Calibration) -> None:
    model = replace(small(), fresh=())
    assert bases.rotate("none", model, calibration) is model


def test_an_unknown_basis_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="unknown basis 'svdd'\ndid you mean svd"):
        bases.basis("svdd")
