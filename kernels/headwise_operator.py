"""`toolkit::headwise_attention` as a PyTorch operator.

One node in an exported program, opaque to `torch.compile` and captured by CUDA graphs, with gradient, fake
implementation and FLOP formula. Importing this module registers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from toolkit.kernels.dispatch import select_backend
from toolkit.kernels.eager import bucketed, check, reference_gradients, reference_lse, split_qkv
from toolkit.kernels.heads import ALIGNMENT


@torch.library.custom_op("toolkit::headwise_attention", mutates_args=())
def operator(
    packed: Tensor,
    queries: Tensor | None,
    bias: Tensor | None,
    key_bias: Tensor | None,
    qk_dims: Sequence[int],
    v_dims: Sequence[int],
    scale: float,
    with_lse: bool,
) -> tuple[Tensor, Tensor]:
    """`headwise_attention` and, with `with_lse`, the base-2 log-sum-exp of the logits, [batch, heads, queries] float32,
    which the gradient needs; else an empty tensor. Runs the kernel on GPUs and SDPA buckets elsewhere.

    Raises ValueError on a GPU for inputs that the kernel does not support; `headwise_attention` falls back instead."""
    heads = list(zip(qk_dims, v_dims, strict=True))
    if packed.device.type == "cuda":
        from toolkit.kernels import headwise_launch

        check(packed, heads, bias, queries, key_bias)
        packed, queries = _aligned(packed), None if queries is None else _aligned(queries)
        if reason := select_backend(packed, heads).reason:
            raise ValueError(f"the kernel does not support these inputs: {reason}")
        with torch.cuda.device(packed.device):
            qkv = split_qkv(packed, queries, heads)
            return headwise_launch.forward(*qkv, heads, scale, bias, key_bias, with_lse=with_lse)
    out = bucketed(packed, heads, scale, bias, queries=queries, key_bias=key_bias)
    if not with_lse:
        return out, out.new_empty(0, dtype=torch.float32)
    return out, reference_lse(packed, heads, scale, bias, queries, key_bias)


@operator.register_fake
def _(
    packed: Tensor, queries: Tensor | None, bias: Tensor | None, key_bias: Tensor | None, qk_dims: Sequence[int],
    v_dims: Sequence[int], scale: float, with_lse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, keys, _ = packed.shape
    num_queries = keys if queries is None else queries.shape[1]
    lse_shape = (batch, len(qk_dims), num_queries) if with_lse else (0,)
    return packed.new_empty(batch, num_queries, sum(v_dims)), packed.new_empty(lse_shape, dtype=torch.float32)


@torch.library.custom_op("toolkit::headwise_attention_backward", mutates_args=())
def backward_operator(
    grad_out: Tensor,
    packed: Tensor,
    queries: Tensor | None,
    bias: Tensor | None,
    key_bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    qk_dims: Sequence[int],
    v_dims: Sequence[int],
    scale: float,
    with_grad_bias: bool,
    with_grad_key_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of packed, queries, bias and key_bias; an empty tensor for an input that is None or needs none.

    Those of the biases are computed by the reference, on GPUs too.
    """
    heads = list(zip(qk_dims, v_dims, strict=True))
    if lse.numel() == 0:
        raise RuntimeError("the gradient needs the log-sum-exp: run the forward pass with with_lse=True")
    grad_bias = grad_key_bias = None
    if packed.device.type != "cuda" or with_grad_bias or with_grad_key_bias:
        gradients = reference_gradients(grad_out, packed, heads, scale, bias, queries, key_bias)
        grad_packed, grad_queries, grad_bias, grad_key_bias = gradients
    grad_bias = _or_empty(grad_bias if with_grad_bias else None, packed)
    grad_key_bias = _or_empty(grad_key_bias if with_grad_key_bias else None, packed)
    if packed.device.type != "cuda":
        return grad_packed, _or_empty(grad_queries, packed), grad_bias, grad_key_bias
    from toolkit.kernels import headwise_launch

    grad_packed = torch.empty_like(packed, memory_format=torch.contiguous_format)
    grad_queries = None if queries is None else torch.empty_like(queries, memory_format=torch.contiguous_format)
    grad_qkv = split_qkv(grad_packed, grad_queries, heads)
    qkv = split_qkv(_aligned(packed), None if queries is None else _aligned(queries), heads)
    with torch.cuda.device(packed.device):
        headwise_launch.backward(*qkv, heads, scale, bias, key_bias, out, lse, grad_out, *grad_qkv)
    return grad_packed, _or_empty(grad_queries, packed), grad_bias, grad_key_bias


def _aligned(x: Tensor) -> Tensor:
    """`x` itself if its tokens are aligned to 16 bytes, as the kernel loads them; else a contiguous copy."""
    if x.data_ptr() % 16 or any(stride % ALIGNMENT for stride in x.stride()[:-1]):
        return x.clone(memory_format=torch.contiguous_format)
    return x


def _or_empty(x: Tensor | None, like: Tensor) -> Tensor:
    """`x`, or an empty tensor for None: an operator returns tensors only."""
    return like.new_empty(0) if x is None else x


@backward_operator.register_fake
def _(
    grad_out: Tensor, packed: Tensor, queries: Tensor | None, bias: Tensor | None, key_bias: Tensor | None,
    out: Tensor, lse: Tensor, qk_dims: Sequence[int], v_dims: Sequence[int], scale: float, with_grad_bias: bool,
    with_grad_key_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    def empty_like(x: Tensor | None) -> Tensor:
        return packed.new_empty(0) if x is None else torch.empty_like(x, memory_format=torch.contiguous_format)

    grad_bias, grad_key_bias = bias if with_grad_bias else None, key_bias if with_grad_key_bias else None
    return empty_like(packed), empty_like(queries), empty_like(grad_bias), empty_like(grad_key_bias)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    packed, queries, bias, key_bias, *ctx.settings, _ = inputs
    ctx.save_for_backward(packed, queries, bias, key_bias, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_out: Tensor, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    packed, queries, *biases, out, lse = ctx.saved_tensors
    of_biases = [bias is not None and needs for bias, needs in zip(biases, ctx.needs_input_grad[2:4], strict=True)]
    gradients = backward_operator(grad_out, packed, queries, *biases, out, lse, *ctx.settings, *of_biases)
    needed = (True, queries is not None, *of_biases)
    return *(grad if need else None for grad, need in zip(gradients, needed, strict=True)), None, None, None, None


operator.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.toolkit.headwise_attention)
def _flops(
    packed: torch.Size, queries: torch.Size | None, bias: torch.Size | None, key_bias: torch.Size | None,
    qk_dims: Sequence[int], v_dims: Sequence[int], *unused: object, out_shape: object = None,
) -> int:  # fmt: skip
    """FLOPs of q k^T and of the weights times v, 2 per multiply-accumulate."""
    batch, keys, _ = packed
    num_queries = keys if queries is None else queries[1]
    return 2 * batch * num_queries * keys * (sum(qk_dims) + sum(v_dims))
