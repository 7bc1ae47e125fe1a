"""Function bodies for `toolkit::HeadwiseAttention`, for runtimes without a kernel for this node."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from onnx import FunctionProto, ModelProto, NodeProto
from torch import Tensor, nn

from toolkit.export.attention import DOMAIN, NODE, AttentionSpec, Biases, decomposed, per_bucket
from toolkit.export.flat_attention import FlatAttention
from toolkit.export.trace import export_onnx


class _Body(nn.Module):
    """The node's computation in plain operators."""

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, packed: Tensor, queries: Tensor | None, bias: Tensor | None, key_bias: Tensor | None) -> Tensor:
        """packed [batch, tokens, ...], and the optional inputs of the node -> [batch, queries, V]"""
        flat = packed.flatten(0, 1), None if queries is None else queries.flatten(0, 1)
        mixed = per_bucket(decomposed, *flat, Biases(bias, key_bias), self.spec)
        return mixed.view(-1, self.spec.num_queries, self.spec.layout.v_width)


def add_bodies(proto: ModelProto, module: nn.Module) -> None:
    """Add the function of every custom node in the graph of `module`; layers of equal shape share one."""
    bodies: dict[object, str] = {}
    for node in proto.graph.node:
        if node.domain != DOMAIN or not node.op_type.startswith(NODE):
            continue
        attention = module.get_submodule(node.name.partition("/")[0])
        assert isinstance(attention, FlatAttention)
        optional = _optional_inputs(node)
        key = (attention.spec, optional, attention.proj.weight.dtype)
        if key not in bodies:
            bodies[key] = str(len(bodies))
            body = _body(attention, optional, proto.opset_import[0].version)
            proto.functions.append(_function(node, body, bodies[key]))
        node.overload = bodies[key]


def _optional_inputs(node: NodeProto) -> tuple[str, ...]:
    """Names of a custom node's inputs after `packed`."""
    text = next(attribute.s.decode() for attribute in node.attribute if attribute.name == "optional")
    return tuple(text.split(",")) if text else ()


def _body(attention: FlatAttention, optional: Sequence[str], opset: int) -> ModelProto:
    """The graph of a custom node with these optional inputs."""
    spec, dtype = attention.spec, attention.proj.weight.dtype
    q_width, kv_width = spec.layout.qk_width, spec.layout.qk_width + spec.layout.v_width
    separate = "queries" in optional
    batch = {0: torch.export.Dim("batch")}
    inputs: dict[str, tuple[Tensor | None, dict[int, torch.export.Dim] | None]] = {
        "packed": (torch.zeros(2, spec.num_tokens, kv_width + (0 if separate else q_width), dtype=dtype), batch),
        "queries": (torch.zeros(2, spec.num_queries, q_width, dtype=dtype), batch) if separate else (None, None),
        "bias": (attention.bias, None),
        "key_bias": (torch.zeros(2, spec.num_tokens), batch) if "key_bias" in optional else (None, None),
    }
    examples, dynamic = zip(*inputs.values(), strict=True)
    return export_onnx(_Body(spec), examples, opset, (["packed", *optional], ["mixed"]), dynamic)


def _function(node: NodeProto, body: ModelProto, overload: str) -> FunctionProto:
    """The function of a custom node, with this graph as its body."""
    graph = body.graph
    constants = [onnx.helper.make_node("Constant", [], [value.name], value=value) for value in graph.initializer]
    return onnx.helper.make_function(
        DOMAIN,
        node.op_type,
        [value.name for value in graph.input],
        ["mixed"],
        [*constants, *graph.node],
        [*body.opset_import],
        ["qk_dims", "v_dims", "scale", "optional"],
        overload=overload,
    )
