"""Bucketed attention against the head-by-head reference, its gradients against finite differences, and dispatch."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from toolkit.kernels import dispatch
from toolkit.kernels import headwise_attention as module
from toolkit.kernels.dispatch import Dispatch, select_backend
from toolkit.kernels.eager import bucketed, reference
from toolkit.kernels.heads import Heads
from toolkit.kernels.headwise_attention import headwise_attention

LAYOUTS = {
    "even": ((8, 8),) * 3,
    "one head": ((5, 7),),
    "width 1": ((1, 1), (1, 1)),
    "uneven": ((8, 3), (8, 3), (5, 5), (1, 8), (1, 1)),
    "equal heads not adjacent": ((4, 4), (2, 3), (4, 4)),
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
def test_buckets_match_the_reference(
    heads: tuple[tuple[int, int], ...], tokens: int, with_bias: bool, dtype: torch.dtype
) -> None:
    packed, bias = projections(heads, tokens, dtype)
    used_bias = bias if with_bias else None
    expected = reference(packed, heads, 0.3, used_bias)
    assert expected.shape == (2, tokens, sum(v for _, v in heads))
    for attention in (bucketed, headwise_attention):
        torch.testing.assert_close(
            attention(packed, heads, 0.3, used_bias), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


def test_the_reference_is_softmax_attention() -> None:
    """One head, two tokens, by hand: logits 0 and ln 3 weigh the values 1/4 and 3/4."""
    query, key, value = [2.0, 2.0], [0.0, torch.log(torch.tensor(3.0)).item()], [4.0, 8.0]
    packed = torch.tensor([[query, key, value]]).transpose(1, 2)  # [1, 2 tokens, 1 + 1 + 1]
    torch.testing.assert_close(reference(packed, ((1, 1),), 0.5), torch.full((1, 2, 1), 7.0))


@pytest.mark.parametrize("with_bias", [False, True])
def test_key_bias_is_added_for_every_head_and_query(with_bias: bool) -> None:
    heads = LAYOUTS["uneven"]
    packed, bias = projections(heads, 5, torch.float64)
    key_bias = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    key_bias[1, 3:] = -math.inf
    used_bias = bias if with_bias else torch.zeros_like(bias)
    for image in range(2):
        merged = used_bias + key_bias[image]  # as a bias of its own for each image
        expected = reference(packed[image : image + 1], heads, 0.3, merged)
        for attention in (bucketed, reference, headwise_attention):
            out = attention(packed, heads, 0.3, bias if with_bias else None, key_bias=key_bias)
            torch.testing.assert_close(out[image : image + 1], expected)


def test_log_sizes_as_key_bias_are_repeated_keys() -> None:
    """Proportional attention (Bolya et al., 2023, "Token Merging"): a key of size 3 counts as three equal keys."""
    heads = LAYOUTS["even"]
    packed, _ = projections(heads, 4, torch.float64)
    repeated = torch.cat([packed, packed[:, -1:], packed[:, -1:]], dim=1)
    key_bias = torch.tensor([1.0, 1.0, 1.0, 3.0], dtype=torch.float64).log().expand(2, 4)
    out = headwise_attention(packed, heads, 0.3, key_bias=key_bias)
    torch.testing.assert_close(out, headwise_attention(repeated, heads, 0.3)[:, :4])


@pytest.mark.parametrize("heads", [LAYOUTS["uneven"], LAYOUTS["even"]], ids=["uneven", "even"])
def test_gradients_are_those_of_finite_differences(heads: tuple[tuple[int, int], ...]) -> None:
    packed, bias = projections(heads, 3, torch.float64)
    packed, bias = packed[:1].requires_grad_(), bias.requires_grad_()
    key_bias = torch.linspace(-1, 1, 3, dtype=torch.float64)[None].requires_grad_()

    def attention(packed: Tensor, bias: Tensor, key_bias: Tensor) -> Tensor:
        return bucketed(packed, heads, 0.3, bias, key_bias=key_bias)

    assert torch.autograd.gradcheck(attention, (packed, bias, key_bias))


def test_dropout_drops_weights_and_zero_drops_none() -> None:
    packed, _ = projections(LAYOUTS["even"], 16, torch.float32)
    exact = bucketed(packed, LAYOUTS["even"], 0.3)
    assert torch.equal(bucketed(packed, LAYOUTS["even"], 0.3, dropout=0.0), exact)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropped = torch.stack([bucketed(packed, LAYOUTS["even"], 0.3, dropout=0.5) for _ in range(1000)])
    assert not torch.allclose(dropped[0], exact, atol=0.2)
    torch.testing.assert_close(dropped.mean(0), exact, atol=0.2, rtol=0.0)


@pytest.mark.parametrize("num_queries", [1, 2])
def test_fewer_queries_than_keys(num_queries: int) -> None:
    heads = LAYOUTS["uneven"]
    packed, full_bias = projections(heads, 7, torch.float64)
    qk_width = sum(qk for qk, _ in heads)
    queries, keys_values, bias = packed[:, :num_queries, :qk_width], packed[..., qk_width:], full_bias[:, :num_queries]
    out = headwise_attention(keys_values, heads, 0.3, bias, queries=queries)
    torch.testing.assert_close(out, reference(packed, heads, 0.3, full_bias)[:, :num_queries])
    torch.testing.assert_close(out, reference(keys_values, heads, 0.3, bias, queries))


EVEN: Heads = ((8, 8), (8, 8))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"heads": ()}, ValueError, "every head needs a qk_dim and a v_dim of at least 1"),
        ({"heads": ((8, 8), (0, 8))}, ValueError, "every head needs a qk_dim and a v_dim of at least 1"),
        ({"heads": ((8, 8), (8, 16))}, ValueError, "last dimension of packed must be 56 for these heads, got 48"),
        (
            {"packed": torch.zeros(2, 5, 48, dtype=torch.int32)},
            TypeError,
            "floating-point tensor, got .* of torch.int32",
        ),
        ({"packed": torch.zeros(5, 48)}, TypeError, "3-dimensional"),
        ({"packed": torch.zeros(2, 0, 48)}, ValueError, "packed has no tokens"),
        ({"packed": torch.zeros(2, 48, 5).transpose(1, 2)}, ValueError, "call .contiguous"),
        ({"bias": torch.zeros(2, 5, 4)}, ValueError, r"bias must have the shape \[2, 5, 5\], got \[2, 5, 4\]"),
        ({"bias": torch.zeros(2, 5, 5, dtype=torch.bool)}, TypeError, "bias must be"),
        ({"key_bias": torch.zeros(1, 5)}, ValueError, r"key_bias must have the shape \[2, 5\], got \[1, 5\]"),
        ({"key_bias": torch.zeros(2, 1, 5)}, TypeError, "key_bias must be a 2-dimensional"),
        (
            {"packed": torch.zeros(2, 5, 32), "queries": torch.zeros(2, 1, 8)},
            ValueError,
            "last dimension of queries must be 16",
        ),
        ({"packed": torch.zeros(2, 5, 32), "queries": torch.zeros(3, 1, 16)}, ValueError, "same dtype and batch size"),
        ({"packed": torch.zeros(2, 5, 32), "queries": torch.zeros(2, 1, 16).half()}, ValueError, "torch.float16"),
        ({"packed": torch.zeros(2, 5, 32), "queries": torch.zeros(2, 0, 16)}, ValueError, "queries has no tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) and value else None,
)
def test_bad_input(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {"packed": torch.zeros(2, 5, 48), "heads": EVEN, "scale": 0.3} | change
    with pytest.raises(error, match=message):
        headwise_attention(**arguments)  # type: ignore[arg-type]


class OnGpu:
    """The attributes of a GPU tensor that `select_backend` reads."""

    device = torch.device("cuda")

    def __init__(self, dtype: torch.dtype = torch.bfloat16, stride: int = 48) -> None:
        self.dtype, self._stride = dtype, stride

    def stride(self) -> tuple[int, int, int]:
        return 5 * self._stride, self._stride, 1


@pytest.mark.parametrize(
    ("tensor", "heads", "dropout", "capability", "reason"),
    [
        (OnGpu(), EVEN, 0.0, (9, 0), ""),
        (OnGpu(), EVEN, 0.0, (7, 5), r"8\.0 \(Ampere\) or later"),
        (OnGpu(torch.float32), EVEN, 0.0, (9, 0), "not torch.float32"),
        (OnGpu(), EVEN, 0.1, (9, 0), "no dropout"),
        (OnGpu(), ((8, 8), (8, 12)), 0.0, (9, 0), "not all head widths are multiples of 8"),
        (OnGpu(), ((136, 8),), 0.0, (9, 0), "wider than 128"),
        (OnGpu(stride=52), EVEN, 0.0, (9, 0), "16 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) and value else None,
)
def test_backend_on_a_gpu_and_its_reason(
    monkeypatch: pytest.MonkeyPatch,
    tensor: Tensor,
    heads: Heads,
    dropout: float,
    capability: tuple[int, int],
    reason: str,
) -> None:
    monkeypatch.setattr(dispatch, "_capability", lambda device: capability)
    backend, actual, _ = select_backend(tensor, heads, dropout)
    assert backend == ("sdpa" if reason else "triton")
    assert re.search(reason, actual)


def test_warning_if_only_the_widths_keep_a_layer_from_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = ((8, 8), (8, 12))
    packed = torch.randn(2, 5, 52)
    monkeypatch.setattr(dispatch, "_capability", lambda device: (9, 0))
    fallback = select_backend(OnGpu(stride=56), heads)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "select_backend", lambda *unused: fallback)
    with pytest.warns(UserWarning, match="not all head widths are multiples of 8; prune with --round-to 8"):
        found = headwise_attention(packed, heads, 0.3)
    torch.testing.assert_close(found, reference(packed, heads, 0.3))


def test_backend_on_a_cpu() -> None:
    expected = Dispatch("sdpa", "the kernel runs on GPUs, and the tensors are on cpu")
    assert select_backend(torch.zeros(2, 5, 48), EVEN) == expected
