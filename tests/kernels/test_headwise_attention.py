"""The bucketed attention against the one that is written out head by head, and its gradients against differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from toolkit.kernels.headwise_attention import bucketed, headwise_attention, reference

LAYOUTS = {
    "even": ((8, 8),) * 3,
    "one head": ((5, 7),),
    "one unit wide": ((1, 1), (1, 1)),
    "uneven": ((8, 3), (8, 3), (5, 5), (1, 8), (1, 1)),
    "equal heads apart": ((4, 4), (2, 3), (4, 4)),
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def projections(heads: tuple[tuple[int, int], ...], tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Packed [2, tokens, Q + Q + V] and a bias [heads, tokens, tokens]."""
    generator = torch.Generator().manual_seed(3)
    width = sum(2 * qk + v for qk, v in heads)
    packed = torch.randn(2, tokens, width, generator=generator, dtype=dtype)
    return packed, torch.randn(len(heads), tokens, tokens, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("tokens", [1, 5, 37, 64])
@pytest.mark.parametrize("heads", LAYOUTS.values(), ids=LAYOUTS)
def test_buckets_give_what_single_heads_give(
    heads: tuple[tuple[int, int], ...], tokens: int, with_bias: bool, dtype: torch.dtype
) -> None:
    packed, bias = projections(heads, tokens, dtype)
    given = bias if with_bias else None
    expected = reference(packed, heads, 0.3, given)
    assert expected.shape == (2, tokens, sum(v for _, v in heads))
    for attention in (bucketed, headwise_attention):
        torch.testing.assert_close(
            attention(packed, heads, 0.3, given), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


def test_the_reference_is_softmax_attention() -> None:
    """One head, two tokens, by hand: logits 0 and ln 3 weigh the values 1/4 and 3/4."""
    query, key, value = [2.0, 2.0], [0.0, torch.log(torch.tensor(3.0)).item()], [4.0, 8.0]
    packed = torch.tensor([[query, key, value]]).transpose(1, 2)  # [1, 2 tokens, 1 + 1 + 1]
    torch.testing.assert_close(reference(packed, ((1, 1),), 0.5), torch.full((1, 2, 1), 7.0))


@pytest.mark.parametrize("heads", [LAYOUTS["uneven"], LAYOUTS["even"]], ids=["uneven", "even"])
def test_gradients_are_those_of_finite_differences(heads: tuple[tuple[int, int], ...]) -> None:
    packed, bias = projections(heads, 3, torch.float64)
    packed, bias = packed[:1].requires_grad_(), bias.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, b: bucketed(x, heads, 0.3, b), (packed, bias))


def test_dropout_drops_weights_and_zero_drops_none() -> None:
    packed, _ = projections(LAYOUTS["even"], 16, torch.float32)
    exact = bucketed(packed, LAYOUTS["even"], 0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropped = bucketed(packed, LAYOUTS["even"], 0.3, dropout=0.5)
    assert not torch.allclose(dropped, exact, atol=1e-2)
