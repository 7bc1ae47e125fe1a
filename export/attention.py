"""Forms of attention on flattened tokens: plain matrix products in PyTorch, and one of several forms in a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import onnx
import torch
from torch import Tensor

from toolkit.records import HeadLayout

DOMAIN, NODE = "toolkit", "HeadwiseAttention"
"""Domain and base name of the custom node; see `node_name`."""


@dataclass(eq=False)
class BatchShape:
    """Batch size of the current call; needed to unflatten [batch * tokens, width]."""

    size: int = -1
    """Set if the number of tokens is dynamic; -1: inferred from the number of tokens."""

    def unflatten(self, x: Tensor, num_tokens: int) -> Tensor:
        """[batch * num_tokens, width] -> [batch, num_tokens, width]"""
        return x.view(self.size, num_tokens, x.shape[-1])


class AttentionSpec(NamedTuple):
    """One attention layer: only the first `num_queries` of an image's `num_tokens` are queries; -1: dynamic."""

    layout: HeadLayout
    scale: float
    num_queries: int
    num_tokens: int
    batch: BatchShape
    padding: int = 0
    """Number of padding tokens, at the end; the bias masks them as keys."""
    softmax_float32: bool = False
    """Compute the softmax in float32 even in lower precision."""


class Biases(NamedTuple):
    """Terms added to the attention logits."""

    by_head: Tensor | None = None
    """[heads or 1, queries, tokens], for every image."""
    by_key: Tensor | None = None
    """[batch, tokens], for every head and query."""

    def of_heads(self, first: int, end: int) -> Biases:
        """The biases, restricted to these heads."""
        shared = self.by_head is None or len(self.by_head) == 1
        return self if shared else self._replace(by_head=self.by_head[first:end])  # type: ignore[index]

    def mask(self) -> Tensor | None:
        """The sum, broadcastable to [batch, heads, queries, tokens]."""
        if self.by_key is None:
            return self.by_head
        per_image = self.by_key[:, None, None, :]
        return per_image if self.by_head is None else self.by_head + per_image.to(self.by_head.dtype)


AttentionForm: TypeAlias = Callable[[Tensor, Tensor | None, Biases, AttentionSpec], Tensor]
"""qkv [batch * tokens, Q + Q + V] and None, or, if only some tokens are queries, kv [batch * tokens, Q + V] and queries
[batch * queries, Q]; biases; spec -> [batch * queries, V]"""


class HeadBucket(NamedTuple):
    """Adjacent heads of equal widths."""

    heads: int
    qk_dim: int
    v_dim: int
    scale: float
    softmax_float32: bool


AttentionOp: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None, HeadBucket], Tensor]
"""q [batch, queries, heads * qk_dim], k [batch, tokens, heads * qk_dim], v [batch, tokens, heads * v_dim],
mask as in `Biases`, bucket -> [batch, queries, heads * v_dim]"""


def packed(qkv: Tensor, queries: Tensor | None, biases: Biases, spec: AttentionSpec) -> Tensor:
    """`decomposed`, but a single transpose for queries, keys and values if all heads are equal.

    OpenVINO runs this faster. TensorRT does not: it would copy what it otherwise reads in place.
    """
    (heads, width, v_dim), *others = spec.layout.buckets
    if others or width != v_dim:
        return per_bucket(decomposed, qkv, queries, biases, spec)

    def heads_first(x: Tensor, num_tokens: int) -> Tensor:
        """[batch * num_tokens, any number of heads * width] -> [batch, heads, num_tokens, width]"""
        transposed: Tensor = spec.batch.unflatten(x, num_tokens).unflatten(-1, (-1, width)).transpose(1, 2)
        return transposed

    parts = heads_first(qkv, spec.num_tokens).split(heads, dim=1)
    q, k, v = parts if queries is None else (heads_first(queries, spec.num_queries), *parts)
    bucket = HeadBucket(heads, width, width, spec.scale, spec.softmax_float32)
    return _products(q, k.transpose(2, 3), v, biases.mask(), bucket).view(-1, spec.layout.v_width)


def decomposed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bucket: HeadBucket) -> Tensor:
    """Scaled queries, product, softmax, product: runs in every runtime, and TensorRT and OpenVINO fuse this pattern.

    A single transpose prepares the keys for their product.
    """
    queries = q.unflatten(-1, (bucket.heads, bucket.qk_dim)).transpose(1, 2)
    keys = k.unflatten(-1, (bucket.heads, bucket.qk_dim)).permute(0, 2, 3, 1)
    values = v.unflatten(-1, (bucket.heads, bucket.v_dim)).transpose(1, 2)
    return _products(queries, keys, values, mask, bucket)


def _products(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, bucket: HeadBucket) -> Tensor:
    """queries [batch, heads, queries, qk_dim], keys [batch, heads, qk_dim, tokens], values [batch, heads, tokens,
    v_dim], mask as in `Biases`, bucket -> [batch, queries, heads * v_dim]"""
    logits = (queries if bucket.scale == 1.0 else queries * bucket.scale) @ keys  # [batch, heads, queries, tokens]
    if mask is not None:
        logits = logits + mask.to(logits.dtype)
    weights = (logits.float() if bucket.softmax_float32 else logits).softmax(dim=-1).to(values.dtype)
    mixed: Tensor = (weights @ values).transpose(1, 2).flatten(2)
    return mixed


class Operator(NamedTuple):
    """An ONNX operator without a PyTorch equivalent, with its attributes."""

    name: str
    attributes: Mapping[str, Any]
    version: int


def _node(
    operator: Operator, inputs: Sequence[Tensor | None], dtype: torch.dtype, shape: Sequence[int | torch.SymInt]
) -> Tensor:
    """Add a node to the ONNX graph that is being traced, with one output of this dtype and shape.

    Raises RuntimeError outside of an ONNX export, where torch would return zeros instead of computing the operator.
    """
    if not torch.onnx.is_in_onnx_export():
        raise RuntimeError(f"torch cannot compute {operator.name}: it is for ONNX graphs only")
    attributes = dict(operator.attributes)
    output: Tensor = torch.onnx.ops.symbolic(
        operator.name, inputs, attributes, dtype=dtype, shape=shape, version=operator.version
    )
    return output


def standard(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bucket: HeadBucket) -> Tensor:
    """ONNX's `Attention` operator (opset 23)."""
    attributes: dict[str, Any] = {"q_num_heads": bucket.heads, "kv_num_heads": bucket.heads, "scale": bucket.scale}
    if bucket.softmax_float32:
        attributes["softmax_precision"] = onnx.TensorProto.FLOAT
    if mask is not None and mask.dim() == 4:  # onnxruntime broadcasts a mask to images and heads, but not to queries
        mask = mask.to(q.dtype).expand(-1, -1, q.shape[1], -1)
    return _node(Operator("Attention", attributes, 23), (q, k, v, mask), q.dtype, [*q.shape[:2], v.shape[-1]])


def per_bucket(op: AttentionOp, qkv: Tensor, queries: Tensor | None, biases: Biases, spec: AttentionSpec) -> Tensor:
    """Apply `op` to each bucket of equal heads; arguments as in `AttentionForm`."""
    buckets = spec.layout.buckets
    if biases.by_head is not None and biases.by_head.shape[-1] > spec.num_tokens:  # padded for `custom`
        biases = biases._replace(by_head=biases.by_head[..., : spec.num_tokens])
    qk = [heads * qk_dim for heads, qk_dim, _ in buckets]
    v = [heads * v_dim for heads, _, v_dim in buckets]
    images = spec.batch.unflatten(qkv, spec.num_tokens)
    if queries is None:
        parts = images.split([*qk, *qk, *v], dim=-1)
    else:
        q = spec.batch.unflatten(queries, spec.num_queries)
        parts = (*q.split(qk, dim=-1), *images.split([*qk, *v], dim=-1))
    ends = [0, *accumulate(heads for heads, _, _ in buckets)]
    mixed = [
        op(
            parts[index],
            parts[index + len(buckets)],
            parts[index + 2 * len(buckets)],
            biases.of_heads(ends[index], ends[index + 1]).mask(),
            HeadBucket(*bucket, spec.scale, spec.softmax_float32),
        )
        for index, bucket in enumerate(buckets)
    ]
    return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=-1)).view(-1, spec.layout.v_width)


def node_name(num_inputs: int) -> str:
    """Name of the custom node with this many inputs: a TensorRT plugin has a fixed number of them."""
    return f"{NODE}{num_inputs}"


def custom(qkv: Tensor, queries: Tensor | None, biases: Biases, spec: AttentionSpec) -> Tensor:
    """One node for the whole layer, whose function body is added to the file later (`add_bodies`); see `node_name`.

    Inputs: packed [batch, tokens, Q + Q + V], or packed [batch, tokens, Q + V] and queries [batch, queries, Q];
    then, if any, bias [heads or 1, queries, tokens + padding], padded to a multiple of 8 keys for vectorised loads on
    GPUs, and key_bias [batch, tokens] float32. Attributes: qk_dims, v_dims (of every head), scale, and optional, the
    names of the inputs after `packed`. Output: [batch, queries, V].
    """
    qk_dims, v_dims = ([head[part] for head in spec.layout.heads] for part in (0, 1))
    images = spec.batch.unflatten(qkv, spec.num_tokens)
    optional = {
        "queries": None if queries is None else spec.batch.unflatten(queries, spec.num_queries),
        "bias": biases.by_head,
        "key_bias": biases.by_key,
    }
    present = {name: tensor for name, tensor in optional.items() if tensor is not None}
    attributes = {"qk_dims": qk_dims, "v_dims": v_dims, "scale": spec.scale, "optional": ",".join(present)}
    inputs = [images, *present.values()]
    operator = Operator(f"{DOMAIN}::{node_name(len(inputs))}", attributes, 1)
    mixed = _node(operator, inputs, qkv.dtype, [images.shape[0], spec.num_queries, spec.layout.v_width])
    return mixed.view(-1, spec.layout.v_width)


FORMS: Mapping[str, AttentionForm] = {
    "decomposed": partial(per_bucket, decomposed),
    "packed": packed,
    "standard": partial(per_bucket, standard),
    "custom": custom,
}
