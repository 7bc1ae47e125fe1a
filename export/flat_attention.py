"""Attention layer on flattened tokens; its form in an ONNX graph is a parameter."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from toolkit.export.attention import (
    AttentionForm,
    AttentionOp,
    AttentionSpec,
    BatchShape,
    Biases,
    custom,
    decomposed,
    per_bucket,
)
from toolkit.kernels.heads import ALIGNMENT
from toolkit.models.attention import HeadwiseAttention, normed

MASKED = -30000.0
"""Mask value for padded keys: exp() underflows to 0 and it fits fp16."""


class FlatAttention(nn.Module):
    """A `HeadwiseAttention` on flattened tokens, [batch * tokens, width].

    Only the first `num_queries` tokens of an image are queries; all but the padding are keys.

    `form` is used in ONNX graphs only. In PyTorch, `op` computes every bucket of equal heads for every form, so
    decisions based on its values hold for all forms.
    """

    bias: Tensor | None
    num_queries = None
    """As in `HeadwiseAttention`, where a block reads it. With fewer queries, the block is a `ReducingBlock`."""

    def __init__(
        self,
        attention: HeadwiseAttention,
        num_tokens: int,
        num_queries: int,
        batch: BatchShape,
        form: AttentionForm,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.spec = AttentionSpec(attention.layout, attention.scale, num_queries, num_tokens, batch, padding)
        self.form = form
        self.op: AttentionOp = decomposed
        self.proj = attention.proj
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        biases, q_width = attention.packed_bias(), attention.layout.qk_width
        if num_queries == num_tokens:
            self.qkv = _linear(attention.qkv.weight, biases)
        else:
            self.q = _linear(attention.qkv.weight[:q_width], None if biases is None else biases[:q_width])
            self.kv = _linear(attention.qkv.weight[q_width:], None if biases is None else biases[q_width:])
        bias = attention.position_bias()  # [heads, tokens, tokens] or None
        if padding:
            bias = _masking(bias, num_tokens, padding)
        if bias is not None:
            bias = bias[:, :num_queries].detach().clone(memory_format=torch.contiguous_format)
        if bias is not None and form is custom:
            bias = nn.functional.pad(bias, (0, -num_tokens % ALIGNMENT))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """x: [batch * tokens, width], key_bias: [batch, tokens] or None -> [batch * queries, width]"""
        attend: AttentionForm = self.form if torch.onnx.is_in_onnx_export() else partial(per_bucket, self.op)
        biases = Biases(self.bias, key_bias)
        if self.spec.num_queries == self.spec.num_tokens:
            mixed = attend(self._normalised(self.qkv(x)), None, biases, self.spec)
        else:
            queries = self.q(first_tokens(x, self.spec.num_tokens, self.spec.num_queries, self.spec.batch))
            if self.q_norm is not None:
                queries = normed(self.q_norm, queries, len(self.spec.layout.heads))
            mixed = attend(self._normalised(self.kv(x)), queries, biases, self.spec)
        output: Tensor = self.proj(mixed)
        return output

    def _normalised(self, packed: Tensor) -> Tensor:
        """q, k and v, or k and v, with the norms of queries and keys applied."""
        if self.q_norm is None or self.k_norm is None:
            return packed
        norms = [self.q_norm, self.k_norm] if self.spec.num_queries == self.spec.num_tokens else [self.k_norm]
        layout = self.spec.layout
        *parts, values = packed.split([*[layout.qk_width] * len(norms), layout.v_width], dim=-1)
        parts = [normed(norm, part, len(layout.heads)) for norm, part in zip(norms, parts, strict=True)]
        return torch.cat([*parts, values], dim=-1)


def first_tokens(x: Tensor, num_tokens: int, count: int, batch: BatchShape) -> Tensor:
    """The first `count` tokens of every image: [batch * num_tokens, width] -> [batch * count, width]"""
    return batch.unflatten(x, num_tokens)[:, :count].reshape(-1, x.shape[-1])


def _masking(bias: Tensor | None, num_tokens: int, padding: int) -> Tensor:
    """`bias` extended to [heads or 1, num_tokens, num_tokens], with the last `padding` keys masked.

    A bias [1, 1, num_tokens] would be enough, but OpenVINO 2026.4 computes it wrongly in bfloat16.
    """
    if bias is None:
        bias = torch.zeros(1, num_tokens - padding, num_tokens - padding)
    return nn.functional.pad(nn.functional.pad(bias, (0, 0, 0, padding)), (0, padding), value=MASKED)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with these weights; a bias of zeros is dropped."""
    biased = bias is not None and bool(bias.any())
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=biased, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None and biased:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
