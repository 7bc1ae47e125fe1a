"""The bucketed attention against the one that is written out head by head, and its gradients against differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from toolkit.kernels import headwise_attention as module
from toolkit.kernels.headwise_attention import Choice, Heads, bucketed, choose, headwise_attention, reference

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
    assert torch.equal(bucketed(packed, LAYOUTS["even"], 0.3, dropout=0.0), exact)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropped = torch.stack([bucketed(packed, LAYOUTS["even"], 0.3, dropout=0.5) for _ in range(1000)])
    assert not torch.allclose(dropped[0], exact, atol=0.2)
    torch.testing.assert_close(dropped.mean(0), exact, atol=0.2, rtol=0.0)


@pytest.mark.parametrize("rows", [1, 2])
def test_fewer_queries_than_keys(rows: int) -> None:
    heads = LAYOUTS["uneven"]
    packed, bias = projections(heads, 7, torch.float64)
    asking = sum(qk for qk, _ in heads)
    queries, keys_values = packed[:, :rows, :asking], packed[..., asking:]
    found = headwise_attention(keys_values, heads, 0.3, bias[:, :rows], queries=queries)
    torch.testing.assert_close(found, reference(packed, heads, 0.3, bias)[:, :rows])
    torch.testing.assert_close(found, reference(keys_values, heads, 0.3, bias[:, :rows], queries))


EVEN: Heads = ((8, 8), (8, 8))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"heads": ()}, ValueError, "heads of at least one unit"),
        ({"heads": ((8, 8), (0, 8))}, ValueError, "heads of at least one unit"),
        ({"heads": ((8, 8), (8, 16))}, ValueError, "packed has 48 units for each token, the heads have 56"),
        ({"packed": torch.zeros(2, 5, 48, dtype=torch.int32)}, TypeError, "of floating point, not .* of torch.int32"),
        ({"packed": torch.zeros(5, 48)}, TypeError, "three-dimensional"),
        ({"packed": torch.zeros(2, 0, 48)}, ValueError, "there are no tokens in packed"),
        ({"packed": torch.zeros(2, 48, 5).transpose(1, 2)}, ValueError, "call .contiguous"),
        ({"bias": torch.zeros(2, 5, 4)}, ValueError, r"the bias is \[2, 5, 4\], not \[2, 5, 5\]"),
        ({"bias": torch.zeros(2, 5, 5, dtype=torch.bool)}, TypeError, "bias must be"),
        ({"packed": torch.zeros(2, 5, 32), "queries": torch.zeros(2, 1, 8)}, ValueError, "queries has 8 units"),
        ({"packed": torch.zeros(2, 5, 32), "queries": torch.zeros(3, 1, 16)}, ValueError, "keys and values"),
        ({"packed": torch.zeros(2, 5, 32), "queries": torch.zeros(2, 1, 16).half()}, ValueError, "torch.float16"),
        ({"packed": torch.zeros(2, 5, 32), "queries": torch.zeros(2, 0, 16)}, ValueError, "no tokens in queries"),
    ],
    ids=lambda value: value if isinstance(value, str) and value else None,
)
def test_bad_input(change: dict[str, object], error: type[Exception], message: str) -> None:
    given: dict[str, object] = {"packed": torch.zeros(2, 5, 48), "heads": EVEN, "scale": 0.3} | change
    with pytest.raises(error, match=message):
        headwise_attention(**given)  # type: ignore[arg-type]


class OnGpu:
    """What `choose` asks a tensor on a GPU."""

    device = torch.device("cuda")

    def __init__(self, dtype: torch.dtype = torch.bfloat16, stride: int = 48) -> None:
        self.dtype, self._stride = dtype, stride

    def stride(self) -> tuple[int, int, int]:
        return 5 * self._stride, self._stride, 1


@pytest.mark.parametrize(
    ("tensor", "heads", "dropout", "capability", "why"),
    [
        (OnGpu(), EVEN, 0.0, (9, 0), ""),
        (OnGpu(), EVEN, 0.0, (7, 5), "from Ampere"),
        (OnGpu(torch.float32), EVEN, 0.0, (9, 0), "not in torch.float32"),
        (OnGpu(), EVEN, 0.1, (9, 0), "drops no weights"),
        (OnGpu(), ((8, 8), (8, 12)), 0.0, (9, 0), "not all widths are multiples of 8"),
        (OnGpu(), ((136, 8),), 0.0, (9, 0), "wider than 128"),
        (OnGpu(stride=52), EVEN, 0.0, (9, 0), "16 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) and value else None,
)
def test_what_is_chosen_on_a_gpu_and_why(
    monkeypatch: pytest.MonkeyPatch, tensor: Tensor, heads: Heads, dropout: float, capability: tuple[int, int], why: str
) -> None:
    monkeypatch.setattr(module, "_capability", lambda device: capability)
    found = choose(tensor, heads, dropout)
    assert found.name == ("buckets" if why else "triton")
    assert why in found.why


def test_a_layer_that_could_have_had_the_kernel_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = ((8, 8), (8, 12))
    packed = torch.randn(2, 5, 52)
    monkeypatch.setattr(module, "_capability", lambda device: (9, 0))
    choice = choose(OnGpu(stride=56), heads)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "choose", lambda *given: choice)
    with pytest.warns(UserWarning, match="not all widths are multiples of 8; prune with --round-to 8"):
        found = headwise_attention(packed, heads, 0.3)
    torch.testing.assert_close(found, reference(packed, heads, 0.3))


def test_what_is_chosen_elsewhere() -> None:
    assert choose(torch.zeros(2, 5, 48), EVEN) == Choice(
        "buckets", "the kernel is for GPUs, and the tensors are on cpu"
    )
