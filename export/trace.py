"""From a module to an ONNX graph whose nodes say which layer they belong to."""

from __future__ import annotations

import ast
import warnings
from collections import Counter

import onnx
import torch
from onnx import ModelProto, NodeProto
from torch import nn

from toolkit.errors import UnsupportedModel, plainly
from toolkit.export import INPUT, OUTPUT

DIMENSIONS = ("batch", "channels", "height", "width")
"""Names of those of the input that are free."""
LARGEST_BYTES = (1 << 31) - (1 << 22)
"""A protobuf message holds less than 2 GiB; 4 MiB are left for the graph around the weights."""
LOWEST_TRACED = 18
"""torch writes no older opset; for those the graph is converted."""


def fits(proto: ModelProto) -> bool:
    """Whether the graph with its weights can be one file."""
    return sum(len(each.raw_data) for each in proto.graph.initializer) <= LARGEST_BYTES


def traced(module: nn.Module, example: torch.Tensor, opset: int, free: dict[int, torch.export.Dim]) -> ModelProto:
    """The graph of `module` for images like `example` [batch, 3, height, width], of which some dimensions are free.

    Raises UnsupportedModel where torch's exporter gives up.
    """
    proto = program(module, (example,), opset, ([INPUT], [OUTPUT]), (free or None,))
    for place in free:
        proto.graph.input[0].type.tensor_type.shape.dim[place].dim_param = DIMENSIONS[place]
    return proto


def program(
    module: nn.Module,
    examples: tuple[torch.Tensor | None, ...],
    opset: int,
    names: tuple[list[str], list[str]],
    dynamic: tuple[dict[int, torch.export.Dim] | None, ...],
) -> ModelProto:
    """The graph of a module for inputs like `examples`; `names` of its inputs and outputs, `dynamic` dimensions."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=max(opset, LOWEST_TRACED),
                input_names=names[0],
                output_names=names[1],
                dynamic_shapes=dynamic,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UnsupportedModel(
            f"the ONNX exporter cannot write this model: {plainly(error.__cause__ or error)}"
        ) from error
    if exported is None:
        raise UnsupportedModel("the ONNX exporter wrote nothing")
    proto: ModelProto = exported.model_proto
    _name_nodes(proto)
    _drop_notes(proto)
    if opset < LOWEST_TRACED:
        _lower_to_17(proto)
    return proto


def _lower_to_17(proto: ModelProto) -> None:
    """Say in the words of opset 17 what was written in 18. (onnx's own converter knows no way back for Split.)"""
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Split":  # 18 may say how many parts; the sizes say so too
            kept = [attribute for attribute in node.attribute if attribute.name != "num_outputs"]
            del node.attribute[:]
            node.attribute.extend(kept)
        elif node.op_type in ("ReduceMean", "ReduceMax") and len(node.input) == 2:  # axes: an attribute before 18
            axes = constants[node.input.pop()].tolist()
            node.attribute.append(onnx.helper.make_attribute("axes", axes))
            kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
    next(each for each in proto.opset_import if each.domain == "").version = 17


def _name_nodes(proto: ModelProto) -> None:
    """Name every node `blocks.3.attn.qkv/Gemm`: its layer and its operator, numbered where there are several."""
    made_in: dict[str, str] = {}  # layer that wrote a value
    seen: Counter[str] = Counter()
    for node in proto.graph.node:
        layer = _layer_of(node)
        if layer is None:  # made by the exporter itself: part of the layer whose output it reads
            layer = next((made_in[value] for value in node.input if value in made_in), "")
        made_in.update(dict.fromkeys(node.output, layer))
        name = f"{layer}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _layer_of(node: NodeProto) -> str | None:
    """The module that was running when torch recorded the operation."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
    return scopes[-2] if len(scopes) > 1 and scopes[0] == "" else None


def _drop_notes(proto: ModelProto) -> None:
    """The exporter's notes hold paths of the builder's machine."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
