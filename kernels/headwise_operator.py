"""`toolkit::headwise_attention` as an operator of PyTorch.

One node in an exported program, opaque to the compiler and so captured by it and by CUDA graphs as it is, with its
gradient, its shapes without data and its FLOPs. Importing this registers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from toolkit.kernels.headwise_attention import (
    ALIGNMENT,
    bucketed,
    check,
    choose,
    lse_of,
    parts_of,
    reference_gradients,
)


@torch.library.custom_op("toolkit::headwise_attention", mutates_args=())
def operator(
    packed: Tensor,
    queries: Tensor | None,
    bias: Tensor | None,
    qk_dims: Sequence[int],
    v_dims: Sequence[int],
    scale: float,
    with_lse: bool,
) -> tuple[Tensor, Tensor]:
    """`headwise_attention`, and log2 of the sum of every row's exponentials [batch, heads, rows] in float32, if asked
    for: an empty tensor otherwise. The kernel on a GPU, buckets elsewhere.

    Raises ValueError on a GPU for what the kernel does not compute; `headwise_attention` chooses."""
    heads = list(zip(qk_dims, v_dims, strict=True))
    if packed.device.type == "cuda":
        from toolkit.kernels import headwise_launch

        check(packed, heads, bias, queries)
        packed, queries = _aligned(packed), None if queries is None else _aligned(queries)
        if (choice := choose(packed, heads)).name != "triton":
            raise ValueError(f"there is no kernel for this: {choice.why}")
        with torch.cuda.device(packed.device):
            parts = parts_of(packed, queries, heads)
            return headwise_launch.forward(*parts, heads, scale, bias, with_lse=with_lse)
    out = bucketed(packed, heads, scale, bias, queries=queries)
    return out, lse_of(packed, heads, scale, bias, queries) if with_lse else out.new_empty(0, dtype=torch.float32)


@operator.register_fake
def _(
    packed: Tensor, queries: Tensor | None, bias: Tensor | None, qk_dims: Sequence[int], v_dims: Sequence[int],
    scale: float, with_lse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, tokens, _ = packed.shape
    rows = tokens if queries is None else queries.shape[1]
    sums = (batch, len(qk_dims), rows) if with_lse else (0,)
    return packed.new_empty(batch, rows, sum(v_dims)), packed.new_empty(sums, dtype=torch.float32)


@torch.library.custom_op("toolkit::headwise_attention_backward", mutates_args=())
def backward_operator(
    grad_out: Tensor,
    packed: Tensor,
    queries: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    qk_dims: Sequence[int],
    v_dims: Sequence[int],
    scale: float,
    of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of packed, queries and bias; those of what there is not, or that is not asked for, are empty."""
    heads = list(zip(qk_dims, v_dims, strict=True))
    if lse.numel() == 0:
        raise RuntimeError("the forward pass was run without with_lse=True: its rows' sums are needed for the gradient")
    if packed.device.type != "cuda":
        of_packed, of_queries, found = reference_gradients(grad_out, packed, heads, scale, bias, queries)
        return of_packed, _or_nothing(of_queries, packed), _or_nothing(found if of_bias else None, packed)
    from toolkit.kernels import headwise_launch

    grad_packed = torch.empty_like(packed, memory_format=torch.contiguous_format)
    grad_queries = None if queries is None else torch.empty_like(queries, memory_format=torch.contiguous_format)
    grads = parts_of(grad_packed, grad_queries, heads)
    parts = parts_of(_aligned(packed), None if queries is None else _aligned(queries), heads)
    with torch.cuda.device(packed.device):
        headwise_launch.backward(*parts, heads, scale, bias, out, lse, grad_out, *grads)
    grad_bias = reference_gradients(grad_out, packed, heads, scale, bias, queries)[2] if of_bias else None
    return grad_packed, _or_nothing(grad_queries, packed), _or_nothing(grad_bias, packed)


def _aligned(given: Tensor) -> Tensor:
    """The tensor itself where its rows begin at multiples of 16 bytes, as the kernel reads them; else a copy."""
    if given.data_ptr() % 16 or any(stride % ALIGNMENT for stride in given.stride()[:-1]):
        return given.clone(memory_format=torch.contiguous_format)
    return given


def _or_nothing(found: Tensor | None, like: Tensor) -> Tensor:
    """An operator returns tensors only: an empty one for None."""
    return like.new_empty(0) if found is None else found


@backward_operator.register_fake
def _(
    grad_out: Tensor, packed: Tensor, queries: Tensor | None, bias: Tensor | None, out: Tensor, lse: Tensor,
    qk_dims: Sequence[int], v_dims: Sequence[int], scale: float, of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    def like(given: Tensor | None) -> Tensor:
        return packed.new_empty(0) if given is None else torch.empty_like(given, memory_format=torch.contiguous_format)

    return like(packed), like(queries), like(bias if of_bias else None)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    packed, queries, bias, *ctx.settings, _ = inputs
    ctx.save_for_backward(packed, queries, bias, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad_out: Tensor, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    packed, queries, bias, out, lse = ctx.saved_tensors
    of_bias = bias is not None and ctx.needs_input_grad[2]
    found = backward_operator(grad_out, packed, queries, bias, out, lse, *ctx.settings, of_bias)
    there = (True, queries is not None, of_bias)
    return *(each if is_there else None for each, is_there in zip(found, there, strict=True)), None, None, None, None


operator.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.toolkit.headwise_attention)
def _flops(
    packed: torch.Size, queries: torch.Size | None, bias: torch.Size | None, qk_dims: Sequence[int],
    v_dims: Sequence[int], *unused: object, out_shape: object = None,
) -> int:  # fmt: skip
    """Of both products, two to a multiplication and addition."""
    batch, tokens, _ = packed
    rows = tokens if queries is None else queries[1]
    return 2 * batch * rows * tokens * (sum(qk_dims) + sum(v_dims))
