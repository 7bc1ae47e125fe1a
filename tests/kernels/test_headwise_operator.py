"""The operator `toolkit::headwise_attention` in PyTorch: gradient, fake shapes, export, torch.compile, FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from toolkit.kernels import dispatch
from toolkit.kernels.eager import reference, reference_lse
from toolkit.kernels.heads import Heads
from toolkit.kernels.headwise_attention import headwise_attention
from toolkit.kernels.headwise_operator import _aligned, operator

HEADS: Heads = ((8, 3), (8, 3), (5, 5))
DIMS: tuple[list[int], list[int]] = ([8, 8, 5], [3, 3, 5])
SCALE = 0.3


def inputs(
    tokens: int, num_queries: int | None, dtype: torch.dtype = torch.float64, batch: int = 2
) -> list[Tensor | None]:
    """packed, queries (None if every token is a query), bias and key_bias."""
    rng = torch.Generator().manual_seed(5)
    qk_width, v_width = 21, 11
    width = qk_width + v_width + (qk_width if num_queries is None else 0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=dtype).requires_grad_()

    queries = None if num_queries is None else random(batch, num_queries, qk_width)
    return [random(batch, tokens, width), queries, random(3, num_queries or tokens, tokens), random(batch, tokens)]


@pytest.mark.parametrize("num_queries", [None, 1, 2])
def test_output_and_gradient_match_the_reference(num_queries: int | None) -> None:
    packed, queries, bias, key_bias = arguments = inputs(4, num_queries)
    assert packed is not None
    out, lse = operator(*arguments, *DIMS, SCALE, True)
    torch.testing.assert_close(out, reference(packed, HEADS, SCALE, bias, queries, key_bias))
    torch.testing.assert_close(lse, reference_lse(packed, HEADS, SCALE, bias, queries, key_bias))
    assert not lse.requires_grad, "no gradient flows through it"

    def run(*tensors: Tensor) -> Tensor:
        left = iter(tensors)
        out: Tensor = operator(*(None if each is None else next(left) for each in arguments), *DIMS, SCALE, True)[0]
        return out

    assert torch.autograd.gradcheck(run, [each for each in arguments if each is not None])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck looks at it itself
@pytest.mark.parametrize("num_queries", [None, 1])
@pytest.mark.parametrize("with_biases", [False, True])
def test_opcheck_passes(num_queries: int | None, with_biases: bool) -> None:
    packed, queries, *biases = inputs(4, num_queries, torch.float32)
    used_biases = biases if with_biases else (None, None)
    torch.library.opcheck(operator, (packed, queries, *used_biases, *DIMS, SCALE, True))


def test_a_gradient_needs_the_log_sum_exp() -> None:
    packed, *_ = inputs(4, None)
    out, _ = operator(packed, None, None, None, *DIMS, SCALE, False)
    with pytest.raises(RuntimeError, match="with_lse=True"):
        out.sum().backward()


class Layer(nn.Module):
    def forward(self, packed: Tensor) -> Tensor:
        out: Tensor = operator(packed * 2, None, None, None, *DIMS, SCALE, False)[0]
        return out + 1


def test_it_is_one_node_of_an_exported_program() -> None:
    packed, *_ = inputs(4, None, torch.float32)
    assert packed is not None
    dynamic: Any = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Layer(), (packed.detach(),), dynamic_shapes=dynamic).run_decompositions()
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("toolkit.headwise_attention.default") == 1
    assert not any("softmax" in target or "scaled_dot" in target for target in targets)
    more, *_ = inputs(4, None, torch.float32, batch=5)
    assert more is not None
    torch.testing.assert_close(program.module()(more.detach()), Layer()(more.detach()))


def test_torch_compile_captures_it_without_graph_breaks() -> None:
    packed, *_ = inputs(4, None, torch.float32)
    assert packed is not None
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(packed), Layer()(packed))


@pytest.mark.parametrize("num_queries", [None, 1])
def test_flops_are_those_of_the_two_products(num_queries: int | None) -> None:
    packed, queries, *_ = inputs(4, num_queries, torch.float32)
    with FlopCounterMode(display=False) as counter:
        operator(packed, queries, None, None, *DIMS, SCALE, False)
    assert counter.get_total_flops() == 2 * 2 * (num_queries or 4) * 4 * (21 + 11)


def test_misaligned_tokens_are_copied() -> None:
    values = torch.zeros(2, 6, 32, dtype=torch.bfloat16)
    assert _aligned(values) is values
    for misaligned in (values[..., 4:28], torch.zeros(2, 6, 36, dtype=torch.bfloat16)[..., :24]):
        copied = _aligned(misaligned)
        assert copied.data_ptr() % 16 == 0
        assert copied.stride() == (144, 24, 1)
        assert torch.equal(copied, misaligned)


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
def test_a_layer_on_a_gpu_is_exported_with_the_operator(monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    """With fake tensors, so that no GPU is needed."""
    monkeypatch.setattr(dispatch, "_capability", lambda device: (9, 0))
    heads: Heads = ((64, 64), (40, 24))

    class OnGpu(nn.Module):
        def forward(self, packed: Tensor) -> Tensor:
            return headwise_attention(packed * 2, heads, SCALE)

    with FakeTensorMode():
        packed = torch.empty(2, 197, sum(2 * qk + v for qk, v in heads), device="cuda", dtype=torch.bfloat16)
        program = torch.export.export(OnGpu(), (packed,), strict=strict)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets[:2] == ["aten.mul.Tensor", "toolkit.headwise_attention.default"]
