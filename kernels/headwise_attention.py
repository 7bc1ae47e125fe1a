"""Self-attention whose heads may differ in number and width, straight from the packed projection.

`reference` says what is computed, one head at a time. `bucketed` computes it with PyTorch's fused attention, one call
for each run of equal heads. On a GPU one kernel of `headwise_forward` does a whole layer. `headwise_attention` chooses,
and `choose` says what and why.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Heads = Sequence[tuple[int, int]]
"""(qk_dim, v_dim) of each head, in memory order."""

WIDEST = 128
"""Units of the widest head that the kernels take."""
ALIGNMENT = 8
"""Widths are multiples of so many units, 16 bytes: what a GPU reads at once."""
KERNEL_DTYPES = (torch.float16, torch.bfloat16)
HAS_TRITON = find_spec("triton") is not None
LOWEST_CAPABILITY = (8, 0)
"""Compute capability of the GPUs that they are compiled for: Ampere and later."""


class Choice(NamedTuple):
    """What computes an attention."""

    name: str
    """triton or buckets"""
    why: str
    mend: str = ""
    """How the model could have the kernel."""


def headwise_attention(
    packed: Tensor,
    heads: Heads,
    scale: float,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    queries: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T * scale + bias) v for every head (Vaswani et al., 2017), heads of any width.

    packed:  [batch, tokens, Q + Q + V], all queries, then all keys, then all values, head after head; Q and V are the
             sums of the heads' qk_dim and v_dim. With `queries`: [batch, tokens, Q + V], keys and values only.
    bias:    [heads, rows, tokens] or None, added before the softmax.
    dropout: probability of dropping an attention weight; 0 outside training.
    queries: [batch, rows, Q] where not all tokens ask, or None: rows is the number of tokens then.
    Returns  [batch, rows, V], head after head: what the output projection reads.

    Warns where the kernel would have computed it, had it been pruned otherwise: the numbers are right all the same.
    Raises TypeError for what is not three-dimensional and of floating point, ValueError for a layout or a type that
    does not match the tensors, for no tokens, and for units that do not lie side by side.
    """
    check(packed, heads, bias, queries)
    choice = choose(packed, heads, dropout)
    if choice.name == "buckets":
        if choice.mend and not torch.compiler.is_compiling():
            warnings.warn(f"attention is computed bucket by bucket: {choice.why}; {choice.mend}", stacklevel=2)
        return bucketed(packed, heads, scale, bias, dropout, queries)
    from toolkit.kernels import headwise_operator

    given = (packed, queries, None if bias is None else bias.contiguous())
    dims = [qk for qk, _ in heads], [v for _, v in heads]
    with_lse = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in given)
    out: Tensor = headwise_operator.operator(*given, *dims, scale, with_lse)[0]
    return out


def choose(packed: Tensor, heads: Heads, dropout: float = 0.0) -> Choice:
    """What computes the attention of this layer, and why: the kernel wherever it can, else a bucket at a time."""
    if packed.device.type != "cuda":
        return Choice("buckets", f"the kernel is for GPUs, and the tensors are on {packed.device.type}")
    if torch.version.hip is not None or _capability(packed.device) < LOWEST_CAPABILITY:
        return Choice("buckets", "the kernel is for NVIDIA GPUs from Ampere (compute capability 8.0) on")
    if packed.dtype not in KERNEL_DTYPES:
        return Choice("buckets", f"the kernel computes in float16 and bfloat16, not in {packed.dtype}")
    if dropout > 0.0:
        return Choice("buckets", "the kernel drops no weights")
    if why := unfit(heads):
        return Choice("buckets", why, f"prune with --round-to {ALIGNMENT}" if _uneven(heads) else "")
    if any(stride % ALIGNMENT for stride in packed.stride()[:-1]):
        return Choice("buckets", "the rows do not begin at multiples of 16 bytes")
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        return Choice("buckets", "torch.func transforms do not see through the kernel")
    if not HAS_TRITON:
        return Choice("buckets", "Triton is not installed")
    return Choice("triton", "")


def unfit(heads: Heads) -> str:
    """Why the kernels do not take heads of these widths; empty if they do."""
    if _uneven(heads):
        return f"not all widths are multiples of {ALIGNMENT}"
    return f"a head is wider than {WIDEST}" if max(map(max, heads)) > WIDEST else ""


def _uneven(heads: Heads) -> bool:
    return any(width % ALIGNMENT for head in heads for width in head)


def check(packed: Tensor, heads: Heads, bias: Tensor | None = None, queries: Tensor | None = None) -> None:
    """Raise TypeError or ValueError for what `headwise_attention` cannot take."""
    if not heads or min(map(min, heads)) < 1:
        raise ValueError(f"an attention needs heads of at least one unit, not {list(heads)}")
    for name, each in (("packed", packed), ("bias", bias), ("queries", queries)):
        if each is not None and (each.ndim != 3 or not each.is_floating_point()):
            raise TypeError(f"{name} must be three-dimensional and of floating point, not {_text(each)}")
    qk_width, v_width = sum(qk for qk, _ in heads), sum(v for _, v in heads)
    _check_tokens("packed", packed, v_width + qk_width * (2 if queries is None else 1))
    rows = packed.shape[1]
    if queries is not None:
        _check_tokens("queries", queries, qk_width)
        if queries.dtype != packed.dtype or queries.shape[0] != packed.shape[0]:
            raise ValueError(f"queries are {_text(queries)}, keys and values {_text(packed)}")
        rows = queries.shape[1]
    if bias is not None and tuple(bias.shape) != (len(heads), rows, packed.shape[1]):
        raise ValueError(f"the bias is {list(bias.shape)}, not {[len(heads), rows, packed.shape[1]]}")


def _check_tokens(name: str, tensor: Tensor, width: int) -> None:
    if tensor.shape[2] != width:
        raise ValueError(f"{name} has {tensor.shape[2]} units for each token, the heads have {width}")
    if tensor.shape[1] == 0:
        raise ValueError(f"there are no tokens in {name}")
    if tensor.stride(2) != 1:
        raise ValueError(f"the units of {name} do not lie side by side: call .contiguous() first")


def _text(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {tensor.dtype}"


def bucketed(
    packed: Tensor,
    heads: Heads,
    scale: float,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    queries: Tensor | None = None,
) -> Tensor:
    """One `scaled_dot_product_attention` for each run of equal heads; arguments as `headwise_attention`."""
    runs = [(len(list(run)), qk_dim, v_dim) for (qk_dim, v_dim), run in groupby(heads)]
    qk_widths, v_widths = [count * qk for count, qk, _ in runs], [count * v for count, _, v in runs]
    if queries is None:
        parts = packed.split([*qk_widths, *qk_widths, *v_widths], dim=-1)
    else:
        parts = (*queries.split(qk_widths, dim=-1), *packed.split([*qk_widths, *v_widths], dim=-1))
    outputs, first = [], 0
    for run, (count, qk_dim, v_dim) in enumerate(runs):
        q, k, v = (  # [batch, heads of the run, rows or tokens, dim]
            parts[run + turn * len(runs)].unflatten(-1, (count, dim)).transpose(1, 2)
            for turn, dim in enumerate((qk_dim, qk_dim, v_dim))
        )
        own_bias = None if bias is None else bias[first : first + count].to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=own_bias, dropout_p=dropout, scale=scale)
        outputs.append(mixed.transpose(1, 2).flatten(2))
        first += count
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def reference(
    packed: Tensor, heads: Heads, scale: float, bias: Tensor | None = None, queries: Tensor | None = None
) -> Tensor:
    """The same written out head by head, for tests; arguments as `headwise_attention`."""
    q, k, v = parts_of(packed, queries, heads)
    outputs, qk_start, v_start = [], 0, 0
    for index, (qk_dim, v_dim) in enumerate(heads):
        logits = _logits(q, k, qk_start, qk_dim, scale, None if bias is None else bias[index])
        outputs.append(logits.softmax(dim=-1) @ v[..., v_start : v_start + v_dim])
        qk_start, v_start = qk_start + qk_dim, v_start + v_dim
    return torch.cat(outputs, dim=-1)


def lse_of(
    packed: Tensor, heads: Heads, scale: float, bias: Tensor | None = None, queries: Tensor | None = None
) -> Tensor:
    """log2 of the sum of every row's exponentials, [batch, heads, rows] in float32, head by head."""
    q, k, _ = parts_of(packed, queries, heads)
    sums, start = [], 0
    for index, (dim, _) in enumerate(heads):
        logits = _logits(q, k, start, dim, scale, None if bias is None else bias[index])
        sums.append(logits.float().logsumexp(dim=-1) * math.log2(math.e))
        start += dim
    return torch.stack(sums, dim=1)


def reference_gradients(
    grad_out: Tensor, packed: Tensor, heads: Heads, scale: float, bias: Tensor | None, queries: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of packed, queries and bias from that of the output, head by head, in float32 at least."""
    dtype = torch.promote_types(packed.dtype, torch.float32)
    q, k, v = (each.to(dtype) for each in parts_of(packed, queries, heads))
    of_q, of_k, of_v, of_bias = [], [], [], []
    qk_start, v_start = 0, 0
    for index, (qk_dim, v_dim) in enumerate(heads):
        own = slice(qk_start, qk_start + qk_dim), slice(v_start, v_start + v_dim)
        weights = _logits(q, k, qk_start, qk_dim, scale, None if bias is None else bias[index]).softmax(dim=-1)
        grad = grad_out[..., own[1]].to(dtype)
        of_weights = grad @ v[..., own[1]].transpose(1, 2)
        of_logits = weights * (of_weights - (of_weights * weights).sum(dim=-1, keepdim=True))
        of_q.append(of_logits @ k[..., own[0]] * scale)
        of_k.append(of_logits.transpose(1, 2) @ q[..., own[0]] * scale)
        of_v.append(weights.transpose(1, 2) @ grad)
        of_bias.append(of_logits.sum(dim=0))
        qk_start, v_start = own[0].stop, own[1].stop
    own_queries = of_q if queries is None else []
    return (
        torch.cat([*own_queries, *of_k, *of_v], dim=-1).to(packed.dtype),
        None if queries is None else torch.cat(of_q, dim=-1).to(packed.dtype),
        None if bias is None else torch.stack(of_bias).to(bias.dtype),
    )


def parts_of(packed: Tensor, queries: Tensor | None, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Views: queries [batch, rows, Q], keys [batch, tokens, Q] and values [batch, tokens, V] of all heads."""
    qk_width, v_width = sum(qk for qk, _ in heads), sum(v for _, v in heads)
    if queries is None:
        q, k, v = packed.split((qk_width, qk_width, v_width), dim=-1)
        return q, k, v
    k, v = packed.split((qk_width, v_width), dim=-1)
    return queries, k, v


def _logits(q: Tensor, k: Tensor, start: int, dim: int, scale: float, bias: Tensor | None) -> Tensor:
    """[batch, rows, tokens] of the head whose queries and keys are `dim` units from `start` on."""
    logits = q[..., start : start + dim] @ k[..., start : start + dim].transpose(1, 2) * scale
    return logits if bias is None else logits + bias.to(logits.dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
