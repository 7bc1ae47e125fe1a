"""The operator `toolkit::headwise_attention` as PyTorch sees it: gradient, shapes, export, compiler, FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from toolkit.kernels import headwise_attention as module
from toolkit.kernels.headwise_attention import Heads, lse_of, reference
from toolkit.kernels.headwise_operator import _aligned, operator

HEADS: Heads = ((8, 3), (8, 3), (5, 5))
DIMS: tuple[list[int], list[int]] = ([8, 8, 5], [3, 3, 5])
SCALE = 0.3


def given(tokens: int, rows: int | None, dtype: torch.dtype = torch.float64, batch: int = 2) -> list[Tensor | None]:
    """packed, queries (or None where all tokens ask) and bias."""
    generator = torch.Generator().manual_seed(5)
    asking, values = 21, 11
    width = asking + values + (asking if rows is None else 0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    queries = None if rows is None else random(batch, rows, asking)
    return [random(batch, tokens, width), queries, random(3, tokens if rows is None else rows, tokens)]


@pytest.mark.parametrize("rows", [None, 1, 2])
def test_it_is_the_reference_and_so_is_its_gradient(rows: int | None) -> None:
    packed, queries, bias = given(4, rows)
    assert packed is not None
    out, lse = operator(packed, queries, bias, *DIMS, SCALE, True)
    torch.testing.assert_close(out, reference(packed, HEADS, SCALE, bias, queries))
    torch.testing.assert_close(lse, lse_of(packed, HEADS, SCALE, bias, queries))
    assert not lse.requires_grad, "there is no gradient through it"
    tensors = [each for each in (packed, queries, bias) if each is not None]

    def run(*changed: Tensor) -> Tensor:
        left = iter(changed)
        first, second, third = (None if each is None else next(left) for each in (packed, queries, bias))
        found: Tensor = operator(first, second, third, *DIMS, SCALE, True)[0]
        return found

    assert torch.autograd.gradcheck(run, tensors)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck looks at it itself
@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize("with_bias", [False, True])
def test_pytorch_finds_nothing_wrong_with_it(rows: int | None, with_bias: bool) -> None:
    packed, queries, bias = given(4, rows, torch.float32)
    torch.library.opcheck(operator, (packed, queries, bias if with_bias else None, *DIMS, SCALE, True))


def test_a_gradient_needs_the_sums_of_the_rows() -> None:
    packed, *_ = given(4, None)
    out, _ = operator(packed, None, None, *DIMS, SCALE, False)
    with pytest.raises(RuntimeError, match="without with_lse=True"):
        out.sum().backward()


class Layer(nn.Module):
    def forward(self, packed: Tensor) -> Tensor:
        out: Tensor = operator(packed * 2, None, None, *DIMS, SCALE, False)[0]
        return out + 1


def test_it_is_one_node_of_an_exported_program() -> None:
    packed, *_ = given(4, None, torch.float32)
    assert packed is not None
    dynamic: Any = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Layer(), (packed.detach(),), dynamic_shapes=dynamic).run_decompositions()
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("toolkit.headwise_attention.default") == 1
    assert not any("softmax" in target or "scaled_dot" in target for target in targets)
    more, *_ = given(4, None, torch.float32, batch=5)
    assert more is not None
    torch.testing.assert_close(program.module()(more.detach()), Layer()(more.detach()))


def test_the_compiler_takes_it_whole() -> None:
    packed, *_ = given(4, None, torch.float32)
    assert packed is not None
    compiled = torch.compile(Layer(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(packed), Layer()(packed))


@pytest.mark.parametrize("rows", [None, 1])
def test_flops_are_those_of_the_two_products(rows: int | None) -> None:
    packed, queries, _ = given(4, rows, torch.float32)
    with FlopCounterMode(display=False) as counter:
        operator(packed, queries, None, *DIMS, SCALE, False)
    assert counter.get_total_flops() == 2 * 2 * (rows or 4) * 4 * (21 + 11)


def test_rows_that_begin_between_16_bytes_are_copied() -> None:
    values = torch.zeros(2, 6, 32, dtype=torch.bfloat16)
    assert _aligned(values) is values
    for given in (values[..., 4:28], torch.zeros(2, 6, 36, dtype=torch.bfloat16)[..., :24]):
        copied = _aligned(given)
        assert copied.data_ptr() % 16 == 0
        assert copied.stride() == (144, 24, 1)
        assert torch.equal(copied, given)


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "by the compiler"])
def test_a_layer_on_a_gpu_is_exported_with_the_operator(monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    """Without a GPU: its tensors have shapes and no data."""
    monkeypatch.setattr(module, "_capability", lambda device: (9, 0))
    heads: Heads = ((64, 64), (40, 24))

    class OnGpu(nn.Module):
        def forward(self, packed: Tensor) -> Tensor:
            return module.headwise_attention(packed * 2, heads, SCALE)

    with FakeTensorMode():
        packed = torch.empty(2, 197, sum(2 * qk + v for qk, v in heads), device="cuda", dtype=torch.bfloat16)
        program = torch.export.export(OnGpu(), (packed,), strict=strict)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets[:2] == ["aten.mul.Tensor", "toolkit.headwise_attention.default"]
