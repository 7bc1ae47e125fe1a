"""The kernels in Triton's interpreter against the reference in float64.

Memory around the tensors is filled with NaN, so that out-of-bounds reads show. The interpreter lacks bfloat16 products
and models neither registers, shared memory nor threads: see test_machine_code.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from toolkit.kernels import headwise_launch
from toolkit.kernels.eager import reference, reference_lse, split_qkv
from toolkit.kernels.heads import Heads
from toolkit.kernels.headwise_launch import ConfigLookup
from toolkit.kernels.headwise_settings import KernelConfig, Workload
from toolkit.kernels.tuned import best_config

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="with a GPU, see `make gpu`")

MIXED: Heads = ((64, 64), (40, 24), (24, 40), (16, 16), (64, 8), (8, 64))
SCALE = 0.125
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}
FULL, HALF = torch.float32, torch.float16
NEITHER, BIAS, KEY_BIAS, BOTH = (), ("bias",), ("key_bias",), ("bias", "key_bias")
PAIRS = ((1, FULL, BIAS), (3, FULL, KEY_BIAS), (1, HALF, NEITHER), (3, HALF, BOTH))
"""Batch size, dtype, biases: every pair of batch size and dtype, each of them with and without each bias."""
CASES = [
    *(((head,), 50, 1, dtype, BIAS) for head, dtype in zip(MIXED, (FULL, HALF) * 3, strict=True)),
    *((((40, 24),), tokens, *PAIRS[0]) for tokens in (198, 257)),
    pytest.param(((40, 24),), 577, *PAIRS[0], marks=pytest.mark.slow),
    (((128, 72),), 50, 1, FULL, BOTH),  # wider than `whole_row` supports
]


LONG = 100
"""Above this many tokens, all heads are tested with large blocks, and one head with the default blocks: the interpreter
takes seconds per head. `make slow` tests all heads with the default blocks."""


def large_blocks(workload: Workload, device: torch.device) -> KernelConfig:
    """The default configuration with blocks of 256."""
    kernel, settings = best_config(workload, device)
    return KernelConfig(kernel, {**settings, "BLOCK_Q": 256} | ({"BLOCK_K": 256} if "BLOCK_K" in settings else {}))


def poisoned(values: Tensor) -> Tensor:
    """A copy [batch, tokens, width] as a view of a larger tensor that is NaN elsewhere."""
    batch, tokens, width = values.shape
    larger = values.new_full((batch, tokens + 3, width + 16), math.nan)
    larger[:, :tokens, :width] = values
    return larger[:, :tokens, :width]


def inputs(
    heads: Heads, tokens: int, batch: int, dtype: torch.dtype, biases: Sequence[str] = NEITHER
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """packed, bias and key_bias; its last quarter of keys is masked."""
    generator = torch.Generator().manual_seed(tokens)
    packed = torch.randn(batch, tokens, sum(2 * qk + v for qk, v in heads), generator=generator).to(dtype)
    bias = torch.randn(len(heads), tokens, tokens, generator=generator).to(dtype)
    key_bias = torch.randn(batch, tokens, generator=generator)
    key_bias[:, tokens - tokens // 4 :] = -math.inf
    return poisoned(packed), bias if "bias" in biases else None, key_bias if "key_bias" in biases else None


@pytest.mark.parametrize(("heads", "tokens", "batch", "dtype", "biases"), CASES, ids=str)
def test_forward_and_backward_match_the_reference(
    heads: Heads, tokens: int, batch: int, dtype: torch.dtype, biases: Sequence[str]
) -> None:
    check(heads, tokens, batch, dtype, biases, best_config)


@pytest.mark.each_choice
@pytest.mark.parametrize(("batch", "dtype", "biases"), PAIRS, ids=str)
@pytest.mark.parametrize("tokens", [1, 5, 50, 197, 198, 257, 577])
def test_heads_of_mixed_widths_match_the_reference(
    tokens: int, batch: int, dtype: torch.dtype, biases: Sequence[str]
) -> None:
    check(MIXED, tokens, batch, dtype, biases, large_blocks if tokens > LONG else best_config)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "dtype", "biases"), PAIRS, ids=str)
@pytest.mark.parametrize("tokens", [197, 198, 257, 577])
def test_default_blocks_for_many_tokens(tokens: int, batch: int, dtype: torch.dtype, biases: Sequence[str]) -> None:
    check(MIXED, tokens, batch, dtype, biases, best_config)


def check(
    heads: Heads, tokens: int, batch: int, dtype: torch.dtype, biases: Sequence[str], config_for: ConfigLookup
) -> None:
    """Compare forward and backward pass with the reference."""
    packed, bias, key_bias = inputs(heads, tokens, batch, dtype, biases)
    qkv = split_qkv(packed, None, heads)
    out, lse = headwise_launch.forward(*qkv, heads, SCALE, bias, key_bias, with_lse=True, config_for=config_for)
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    grad = torch.full_like(packed, math.nan, memory_format=torch.contiguous_format)
    grad_qkv = split_qkv(grad, None, heads)
    headwise_launch.backward(*qkv, heads, SCALE, bias, key_bias, out, lse, grad_out, *grad_qkv, config_for)

    exact = packed.double().requires_grad_()
    exact_biases = {"bias": None if bias is None else bias.double(), "key_bias": key_bias}
    expected = reference(exact, heads, SCALE, **exact_biases)
    expected.backward(grad_out.double())
    assert exact.grad is not None
    torch.testing.assert_close(out.double(), expected.detach(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    largest = float(exact.grad.abs().max())
    torch.testing.assert_close(grad.double() / largest, exact.grad / largest, atol=TOLERANCE[dtype], rtol=0.0)
    exact_lse = reference_lse(exact.detach(), heads, SCALE, **exact_biases)
    torch.testing.assert_close(lse, exact_lse, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("heads", "tokens", "num_queries", "with_bias"),
    [
        (MIXED, 197, 1, False),
        (MIXED, 50, 2, True),
        (MIXED[1:3], 400, 1, True),
        *(pytest.param(MIXED, 400, 1, with_bias, marks=pytest.mark.slow) for with_bias in (False, True)),
    ],
    ids=str,
)
def test_fewer_queries_than_keys(heads: Heads, tokens: int, num_queries: int, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    queries = poisoned(torch.randn(2, num_queries, sum(qk for qk, _ in heads), generator=generator))
    packed = poisoned(torch.randn(2, tokens, sum(qk + v for qk, v in heads), generator=generator))
    bias = torch.randn(len(heads), num_queries, tokens, generator=generator) if with_bias else None
    qkv = split_qkv(packed, queries, heads)
    out, lse = headwise_launch.forward(*qkv, heads, SCALE, bias, with_lse=True)
    torch.testing.assert_close(out, reference(packed, heads, SCALE, bias, queries), atol=1e-5, rtol=1e-5)

    grads = tuple(torch.full_like(each, math.nan, memory_format=torch.contiguous_format) for each in (packed, queries))
    grad_out = torch.randn(out.shape, generator=generator)
    headwise_launch.backward(*qkv, heads, SCALE, bias, None, out, lse, grad_out, *split_qkv(*grads, heads))
    exact = packed.clone().requires_grad_(), queries.clone().requires_grad_()
    reference(exact[0], heads, SCALE, bias, exact[1]).backward(grad_out)
    for grad, each in zip(grads, exact, strict=True):
        assert each.grad is not None
        torch.testing.assert_close(grad, each.grad, atol=1e-5, rtol=1e-4)


def test_without_lse_nothing_is_written() -> None:
    packed, *_ = inputs(MIXED, 5, 1, FULL)
    _, lse = headwise_launch.forward(*split_qkv(packed, None, MIXED), MIXED, SCALE, None, with_lse=False)
    assert lse.numel() == 0


@pytest.mark.parametrize("tokens", [50, 400], ids=["whole_row", "online"])
def test_a_bias_may_mask_keys(tokens: int) -> None:
    """Including every key of the first blocks."""
    heads: Heads = ((16, 16),)
    packed, bias, _ = inputs(heads, tokens, 1, FULL, BIAS)
    assert bias is not None
    bias[..., : tokens - 7] = -math.inf
    out, _ = headwise_launch.forward(*split_qkv(packed, None, heads), heads, SCALE, bias, with_lse=False)
    torch.testing.assert_close(out, reference(packed, heads, SCALE, bias), atol=1e-5, rtol=1e-5)


def test_any_number_of_images_and_heads_fits_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first grid dimension may exceed 65,535."""
    grids: list[tuple[int, int]] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
            grids.append(grid)
            return lambda *arguments, **settings: None

    monkeypatch.setattr(headwise_launch, "whole_row", Recorder())
    for batch in (0, 70_000):
        packed = torch.empty(batch, 1, 24)
        headwise_launch.forward(*split_qkv(packed, None, ((8, 8),)), ((8, 8),), SCALE, None, with_lse=False)
    assert grids == [(0, 1), (70_000, 1)]
