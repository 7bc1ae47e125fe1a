"""The kernel of a single layer, whose only arguments are tensors, in Triton's interpreter against the reference."""

from __future__ import annotations

import math

import pytest
import torch
import triton

from toolkit.kernels.eager import reference
from toolkit.kernels.heads import Heads, total_widths
from toolkit.kernels.headwise_forward import layer
from toolkit.kernels.layer_spec import LayerSpec

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="with a GPU, see `make gpu`")
HEADS: Heads = ((64, 64), (40, 24), (16, 8))
SCALE = 0.125


@pytest.mark.pairwise
@pytest.mark.parametrize("has_key_bias", [False, True])
@pytest.mark.parametrize("bias_heads", [0, 1, 3])
@pytest.mark.parametrize("num_queries", [None, 1])
@pytest.mark.parametrize("tokens", [50, 325], ids=["whole rows", "online"])
def test_it_matches_the_reference(tokens: int, num_queries: int | None, bias_heads: int, has_key_bias: bool) -> None:
    rng = torch.Generator().manual_seed(2)
    spec = LayerSpec(HEADS, SCALE, tokens, num_queries, bias_heads, has_key_bias)
    qk_width, v_width = total_widths(HEADS)
    packed = torch.randn(2, tokens, qk_width + v_width + (qk_width if num_queries is None else 0), generator=rng)
    queries = None if num_queries is None else torch.randn(2, num_queries, qk_width, generator=rng)
    bias = padded = None
    key_bias = torch.randn(2, tokens, generator=rng) if has_key_bias else None
    if bias_heads:
        bias = torch.randn(bias_heads, spec.num_queries, tokens, generator=rng)
        padded = torch.nn.functional.pad(bias, (0, -tokens % 8), value=math.nan)
    out = torch.full((2, spec.num_queries, v_width), math.nan)
    tensors = {"packed": packed, "queries": queries, "bias": padded, "key_bias": key_bias, "out": out}
    constants = {name: value for name, value in spec.settings(90).items() if name in layer.arg_names}
    layer[2 * len(HEADS), spec.query_blocks(90)](**{**constants, **{name: tensors[name] for name in spec.tensors()}})
    full_bias = None if bias is None else bias.expand(len(HEADS), -1, -1)
    torch.testing.assert_close(out, reference(packed, HEADS, SCALE, full_bias, queries, key_bias), atol=1e-5, rtol=1e-5)
