"""Attention on flat tokens: computed by plain products, and written into a graph in a form that its readers know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import onnx
import torch
from torch import Tensor, nn

from toolkit.kernels.heads import ALIGNMENT
from toolkit.models.attention import HeadwiseAttention
from toolkit.records import HeadLayout

DOMAIN, NODE = "toolkit", "HeadwiseAttention"
"""Name of the custom node; see `node_name`."""
HIDDEN = -30000.0
"""Added to the logits of a token that is not to be read: e to the power of it is 0, and every format holds it."""


@dataclass(eq=False)
class Batch:
    """What passes through: flat tokens do not say where one image ends."""

    images: int = -1
    """How many there are, where images may have any number of tokens; -1: it follows from the number of tokens."""

    def by_image(self, x: Tensor, tokens: int) -> Tensor:
        """[batch * tokens, width] -> [batch, tokens, width]"""
        return x.view(self.images, tokens, x.shape[-1])


class Layer(NamedTuple):
    """One attention: the first `rows` of an image's `tokens` ask; -1: as many as there are."""

    layout: HeadLayout
    scale: float
    rows: int
    tokens: int
    batch: Batch
    padding: int = 0
    """So many of the tokens, the last ones, are no part of the image; the bias keeps them from being read."""
    softmax_float32: bool = False
    """In lower precision: compute the softmax in float32 nevertheless."""


Form: TypeAlias = Callable[[Tensor, Tensor | None, Tensor | None, Layer], Tensor]
"""qkv [batch * tokens, Q + Q + V] and None, or, where not all tokens ask, keys and values [batch * tokens, Q + V] and
queries [batch * rows, Q]; bias [heads or 1, rows, tokens] or None; the layer -> [batch * rows, V]"""


class Run(NamedTuple):
    """A run of equal heads of a layer."""

    heads: int
    qk_dim: int
    v_dim: int
    scale: float
    softmax_float32: bool


Step: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None, Run], Tensor]
"""q [batch, rows, heads * qk_dim], k [batch, tokens, heads * qk_dim], v [batch, tokens, heads * v_dim], bias [heads or
1, rows, tokens] or None, the run -> [batch, rows, heads * v_dim]"""


def at_once(packed: Tensor, queries: Tensor | None, bias: Tensor | None, layer: Layer) -> Tensor:
    """As `by_products`, but queries, keys and values of equal heads are laid out by one transposition.

    OpenVINO is faster so. TensorRT is not: it would copy what it otherwise reads where the projection has written it.
    """
    (heads, width, v_dim), *others = layer.layout.buckets
    if others or width != v_dim:
        return by_runs(by_products, packed, queries, bias, layer)

    def heads_first(x: Tensor, tokens: int) -> Tensor:
        """[batch * tokens, any number of heads * width] -> [batch, heads, tokens, width]"""
        found: Tensor = layer.batch.by_image(x, tokens).unflatten(-1, (-1, width)).transpose(1, 2)
        return found

    parts = heads_first(packed, layer.tokens).split(heads, dim=1)
    q, k, v = parts if queries is None else (heads_first(queries, layer.rows), *parts)
    run = Run(heads, width, width, layer.scale, layer.softmax_float32)
    return _products(q, k.transpose(2, 3), v, bias, run).view(-1, layer.layout.v_width)


def by_products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, run: Run) -> Tensor:
    """Scaled queries, product, softmax, product: what TensorRT and OpenVINO look for, and every runtime can run.

    Keys are laid out for their product by a single transposition.
    """
    queries = q.unflatten(-1, (run.heads, run.qk_dim)).transpose(1, 2)
    keys = k.unflatten(-1, (run.heads, run.qk_dim)).permute(0, 2, 3, 1)
    values = v.unflatten(-1, (run.heads, run.v_dim)).transpose(1, 2)
    return _products(queries, keys, values, bias, run)


def _products(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, run: Run) -> Tensor:
    """queries [batch, heads, rows, qk_dim], keys [batch, heads, qk_dim, tokens], values [batch, heads, tokens, v_dim],
    bias as in `Step`, the run -> [batch, rows, heads * v_dim]"""
    logits = (queries if run.scale == 1.0 else queries * run.scale) @ keys  # [batch, heads, rows, tokens]
    if bias is not None:
        logits = logits + bias
    weights = (logits.float() if run.softmax_float32 else logits).softmax(dim=-1).to(values.dtype)
    mixed: Tensor = (weights @ values).transpose(1, 2).flatten(2)
    return mixed


class Operator(NamedTuple):
    """An ONNX operator that torch does not have, with its attributes."""

    name: str
    attributes: Mapping[str, Any]
    version: int


def _node(
    operator: Operator, inputs: Sequence[Tensor | None], dtype: torch.dtype, shape: Sequence[int | torch.SymInt]
) -> Tensor:
    """A node of the ONNX graph that is being traced, with one output of this dtype and shape.

    Raises RuntimeError outside of such a trace: torch cannot compute the operator, and would give zeros.
    """
    if not torch.onnx.is_in_onnx_export():
        raise RuntimeError(f"torch cannot compute {operator.name}: it is for ONNX graphs only")
    attributes = dict(operator.attributes)
    output: Tensor = torch.onnx.ops.symbolic(
        operator.name, inputs, attributes, dtype=dtype, shape=shape, version=operator.version
    )
    return output


def standard(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, run: Run) -> Tensor:
    """ONNX's own `Attention` (opset 23)."""
    attributes: dict[str, Any] = {"q_num_heads": run.heads, "kv_num_heads": run.heads, "scale": run.scale}
    if run.softmax_float32:
        attributes["softmax_precision"] = onnx.TensorProto.FLOAT
    return _node(Operator("Attention", attributes, 23), (q, k, v, bias), q.dtype, [*q.shape[:2], v.shape[-1]])


def by_runs(step: Step, packed: Tensor, queries: Tensor | None, bias: Tensor | None, layer: Layer) -> Tensor:
    """One step for each run of equal heads; see `Form`."""
    buckets = layer.layout.buckets
    if bias is not None and bias.shape[-1] > layer.tokens:  # as `custom` has it
        bias = bias[..., : layer.tokens]
    qk = [heads * qk_dim for heads, qk_dim, _ in buckets]
    v = [heads * v_dim for heads, _, v_dim in buckets]
    images = layer.batch.by_image(packed, layer.tokens)
    if queries is None:
        parts = images.split([*qk, *qk, *v], dim=-1)
    else:
        asking = layer.batch.by_image(queries, layer.rows)
        parts = (*asking.split(qk, dim=-1), *images.split([*qk, *v], dim=-1))
    ends = [0, *accumulate(heads for heads, _, _ in buckets)]
    mixed = [
        step(
            parts[index],
            parts[index + len(buckets)],
            parts[index + 2 * len(buckets)],
            bias if bias is None or len(bias) == 1 else bias[ends[index] : ends[index + 1]],
            Run(*bucket, layer.scale, layer.softmax_float32),
        )
        for index, bucket in enumerate(buckets)
    ]
    return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=-1)).view(-1, layer.layout.v_width)


def node_name(*, has_queries: bool, has_bias: bool) -> str:
    """Of the custom node, which is called after its inputs: readers' plugins have as many as they are made for."""
    return NODE + "Queries" * has_queries + "Bias" * has_bias


def custom(packed: Tensor, queries: Tensor | None, bias: Tensor | None, layer: Layer) -> Tensor:
    """One node for the whole layer, whose function body is added to the file afterwards; see `node_name`.

    Inputs: packed [batch, tokens, Q + Q + V], or keys and values [batch, tokens, Q + V] and queries [batch, rows, Q];
    bias [heads or 1, rows, tokens and more], if there is one, with rows filled up to a multiple of 8, which is what a
    GPU reads at once. Attributes: qk_dims, v_dims (of each head), scale.
    Output: [batch, rows, V].
    """
    qk_dims, v_dims = ([head[part] for head in layer.layout.heads] for part in (0, 1))
    images = layer.batch.by_image(packed, layer.tokens)
    inputs = (images, None if queries is None else layer.batch.by_image(queries, layer.rows), bias)
    name = f"{DOMAIN}::{node_name(has_queries=queries is not None, has_bias=bias is not None)}"
    operator = Operator(name, {"qk_dims": qk_dims, "v_dims": v_dims, "scale": layer.scale}, 1)
    given = [each for each in inputs if each is not None]
    mixed = _node(operator, given, packed.dtype, [images.shape[0], layer.rows, layer.layout.v_width])
    return mixed.view(-1, layer.layout.v_width)


FORMS: Mapping[str, Form] = {
    "decomposed": partial(by_runs, by_products),
    "packed": at_once,
    "standard": partial(by_runs, standard),
    "custom": custom,
}


class FlatAttention(nn.Module):
    """A `HeadwiseAttention` on tokens that lie one after the other, image after image, without a break.

    Only the first `rows` tokens of an image ask; the others are only asked, and have no output. The last `padding`
    tokens are not even asked.

    `form` is how an ONNX graph has it. Torch computes one `step` for each run of equal heads, whatever the form, so
    that what is decided on its numbers holds for every form.
    """

    bias: Tensor | None

    def __init__(
        self, source: HeadwiseAttention, tokens: int, rows: int, batch: Batch, form: Form, padding: int = 0
    ) -> None:
        super().__init__()
        self.layer = Layer(source.layout, source.scale, rows, tokens, batch, padding)
        self.form = form
        self.step: Step = by_products
        self.proj = source.proj
        biases, asking = source.packed_bias(), source.layout.qk_width
        if rows == tokens:
            self.qkv = _linear(source.qkv.weight, biases)
        else:
            self.q = _linear(source.qkv.weight[:asking], None if biases is None else biases[:asking])
            self.kv = _linear(source.qkv.weight[asking:], None if biases is None else biases[asking:])
        bias = source.position_bias()  # [heads, tokens, tokens] or None
        if padding:
            bias = _hiding(bias, tokens, padding)
        if bias is not None:
            bias = bias[:, :rows].detach().clone(memory_format=torch.contiguous_format)
        if bias is not None and form is custom:
            bias = nn.functional.pad(bias, (0, -tokens % ALIGNMENT))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, **unset: object) -> Tensor:
        """x: [batch * tokens, width] -> [batch * rows, width]. What timm's blocks pass besides says nothing here."""
        attend: Form = self.form if torch.onnx.is_in_onnx_export() else partial(by_runs, self.step)
        if self.layer.rows == self.layer.tokens:
            mixed = attend(self.qkv(x), None, self.bias, self.layer)
        else:
            asking = first_rows(x, self.layer.tokens, self.layer.rows, self.layer.batch)
            mixed = attend(self.kv(x), self.q(asking), self.bias, self.layer)
        output: Tensor = self.proj(mixed)
        return output


def first_rows(x: Tensor, tokens: int, rows: int, batch: Batch) -> Tensor:
    """[batch * tokens, width] -> [batch * rows, width]: the first rows of every image."""
    return batch.by_image(x, tokens)[:, :rows].reshape(-1, x.shape[-1])


def _hiding(bias: Tensor | None, tokens: int, padding: int) -> Tensor:
    """The bias, [heads or 1, tokens, tokens], with the last `padding` of the tokens hidden.

    One row would do for all, but not in OpenVINO 2026.4, which misreads a bias [1, 1, tokens] in bfloat16.
    """
    if bias is None:
        bias = torch.zeros(1, tokens - padding, tokens - padding)
    return nn.functional.pad(nn.functional.pad(bias, (0, 0, 0, padding)), (0, padding), value=HIDDEN)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of these weights; a bias of zeros is none."""
    biased = bias is not None and bool(bias.any())
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=biased, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None and biased:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
