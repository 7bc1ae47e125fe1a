"""One layer as a kernel of tensors alone: by Triton's interpreter, against the reference."""

from __future__ import annotations

import math

import pytest
import torch
import triton

from toolkit.kernels.headwise_attention import Heads, reference
from toolkit.kernels.headwise_forward import layer
from toolkit.kernels.headwise_layer import Layer

pytestmark = pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="with a GPU, see `make gpu`")
HEADS: Heads = ((64, 64), (40, 24), (16, 8))
SCALE = 0.125


@pytest.mark.pairwise
@pytest.mark.parametrize("bias_heads", [0, 1, 3])
@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize("tokens", [50, 325], ids=["whole rows", "online"])
def test_it_is_the_reference(tokens: int, rows: int | None, bias_heads: int) -> None:
    generator = torch.Generator().manual_seed(2)
    shape = Layer(HEADS, SCALE, tokens, rows, bias_heads)
    asking, values = (sum(dims) for dims in zip(*HEADS, strict=True))
    packed = torch.randn(2, tokens, asking + values + (asking if rows is None else 0), generator=generator)
    queries = None if rows is None else torch.randn(2, rows, asking, generator=generator)
    bias = filled = None
    if bias_heads:
        bias = torch.randn(bias_heads, shape.asking, tokens, generator=generator)
        filled = torch.nn.functional.pad(bias, (0, -tokens % 8), value=math.nan)
    out = torch.full((2, shape.asking, values), math.nan)
    tensors = {"packed": packed, "queries": queries, "bias": filled, "out": out}
    constants = {name: value for name, value in shape.settings(90).items() if name in layer.arg_names}
    layer[2 * len(HEADS), shape.tiles(90)](**{**constants, **{name: tensors[name] for name in shape.tensors()}})
    every = None if bias is None else bias.expand(len(HEADS), -1, -1)
    torch.testing.assert_close(out, reference(packed, HEADS, SCALE, every, queries), atol=1e-5, rtol=1e-5)
