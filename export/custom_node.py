"""Function bodies for `toolkit::HeadwiseAttention`, so that a runtime that does not know the node still runs it."""

from __future__ import annotations

import onnx
import torch
from onnx import FunctionProto, ModelProto, NodeProto
from torch import Tensor, nn

from toolkit.export.attention import DOMAIN, NODE, FlatAttention, Layer, by_products, by_runs
from toolkit.export.trace import program


class _Body(nn.Module):
    """What the node computes, out of plain operators."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, packed: Tensor, queries: Tensor | None, bias: Tensor | None) -> Tensor:
        """packed: [batch, tokens, ...], queries: [batch, rows, Q] or None -> [batch, rows, V]"""
        flat = packed.flatten(0, 1), None if queries is None else queries.flatten(0, 1)
        return by_runs(by_products, *flat, bias, self.layer).view(-1, self.layer.rows, self.layer.layout.v_width)


def add_bodies(proto: ModelProto, module: nn.Module) -> None:
    """Give every custom node in the graph of `module` its function; layers of equal shape share one."""
    bodies: dict[object, str] = {}
    for node in proto.graph.node:
        if node.domain != DOMAIN or not node.op_type.startswith(NODE):
            continue
        attention = module.get_submodule(node.name.partition("/")[0])
        assert isinstance(attention, FlatAttention)
        key = (attention.layer, attention.bias is None, attention.proj.weight.dtype)
        if key not in bodies:
            bodies[key] = str(len(bodies))
            proto.functions.append(_body(attention, node, bodies[key], proto.opset_import[0].version))
        node.overload = bodies[key]


def _body(attention: FlatAttention, node: NodeProto, overload: str, opset: int) -> FunctionProto:
    layer, dtype = attention.layer, attention.proj.weight.dtype
    asking, width = layer.layout.qk_width, layer.layout.qk_width + layer.layout.v_width
    part = layer.rows < layer.tokens
    packed = torch.zeros(2, layer.tokens, width + (0 if part else asking), dtype=dtype)
    queries = torch.zeros(2, layer.rows, asking, dtype=dtype) if part else None
    names = ["packed", "queries", "bias"]
    given = [name for name, value in zip(names, (packed, queries, attention.bias), strict=True) if value is not None]
    batch = {0: torch.export.Dim("batch")}
    graph = program(
        _Body(layer),
        (packed, queries, attention.bias),
        opset,
        (given, ["mixed"]),
        (batch, batch if part else None, None),
    ).graph
    constants = [onnx.helper.make_node("Constant", [], [each.name], value=each) for each in graph.initializer]
    return onnx.helper.make_function(
        DOMAIN,
        node.op_type,
        given,
        ["mixed"],
        [*constants, *graph.node],
        [onnx.helper.make_opsetid("", opset)],
        ["qk_dims", "v_dims", "scale"],
        overload=overload,
    )
