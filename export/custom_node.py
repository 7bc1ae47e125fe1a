"""Function bodies for `toolkit::HeadwiseAttention`, for runtimes without a kernel for this node."""

from __future__ import annotations

import onnx
import torch
from onnx import FunctionProto, ModelProto, NodeProto
from torch import Tensor, nn

from toolkit.export.attention import DOMAIN, NODE, AttentionSpec, FlatAttention, decomposed, per_bucket
from toolkit.export.trace import export_onnx


class _Body(nn.Module):
    """The node's computation in plain operators."""

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, packed: Tensor, queries: Tensor | None, bias: Tensor | None) -> Tensor:
        """packed: [batch, tokens, ...], queries: [batch, queries, Q] or None -> [batch, queries, V]"""
        flat = packed.flatten(0, 1), None if queries is None else queries.flatten(0, 1)
        mixed = per_bucket(decomposed, *flat, bias, self.spec)
        return mixed.view(-1, self.spec.num_queries, self.spec.layout.v_width)


def add_bodies(proto: ModelProto, module: nn.Module) -> None:
    """Add the function of every custom node in the graph of `module`; layers of equal shape share one."""
    bodies: dict[object, str] = {}
    for node in proto.graph.node:
        if node.domain != DOMAIN or not node.op_type.startswith(NODE):
            continue
        attention = module.get_submodule(node.name.partition("/")[0])
        assert isinstance(attention, FlatAttention)
        key = (attention.spec, attention.bias is None, attention.proj.weight.dtype)
        if key not in bodies:
            bodies[key] = str(len(bodies))
            proto.functions.append(_body(attention, node, bodies[key], proto.opset_import[0].version))
        node.overload = bodies[key]


def _body(attention: FlatAttention, node: NodeProto, overload: str, opset: int) -> FunctionProto:
    spec, dtype = attention.spec, attention.proj.weight.dtype
    q_width, kv_width = spec.layout.qk_width, spec.layout.qk_width + spec.layout.v_width
    separate = spec.num_queries < spec.num_tokens
    packed = torch.zeros(2, spec.num_tokens, kv_width + (0 if separate else q_width), dtype=dtype)
    queries = torch.zeros(2, spec.num_queries, q_width, dtype=dtype) if separate else None
    optional = {"packed": packed, "queries": queries, "bias": attention.bias}
    inputs = [name for name, value in optional.items() if value is not None]
    batch = {0: torch.export.Dim("batch")}
    graph = export_onnx(
        _Body(spec),
        (packed, queries, attention.bias),
        opset,
        (inputs, ["mixed"]),
        (batch, batch if separate else None, None),
    ).graph
    constants = [onnx.helper.make_node("Constant", [], [value.name], value=value) for value in graph.initializer]
    return onnx.helper.make_function(
        DOMAIN,
        node.op_type,
        inputs,
        ["mixed"],
        [*constants, *graph.node],
        [onnx.helper.make_opsetid("", opset)],
        ["qk_dims", "v_dims", "scale"],
        overload=overload,
    )
