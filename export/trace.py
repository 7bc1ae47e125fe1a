"""Trace a module to an ONNX graph whose nodes are named after their layers."""

from __future__ import annotations

import ast
import warnings
from collections import Counter

import onnx
import torch
from onnx import ModelProto, NodeProto
from torch import nn

from toolkit.errors import UnsupportedModel, plainly
from toolkit.export.capabilities import INPUT, OUTPUT

DIMENSIONS = ("batch", "channels", "height", "width")
"""Names of the input's dynamic dimensions."""
MAX_WEIGHT_BYTES = (1 << 31) - (1 << 22)
"""Limit of weights in one file: protobuf's 2 GiB, less 4 MiB for the rest of the graph."""
MIN_EXPORTER_OPSET = 18
"""Lowest opset of torch's exporter; graphs are converted to lower ones."""


def fits_one_file(proto: ModelProto) -> bool:
    """Whether the graph with its weights fits protobuf's 2 GiB."""
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer) <= MAX_WEIGHT_BYTES


def trace_graph(
    module: nn.Module, example: torch.Tensor, opset: int, dynamic: dict[int, torch.export.Dim]
) -> ModelProto:
    """The graph of `module` for images like `example` [batch, 3, height, width]; `dynamic` dimensions by index.

    Raises UnsupportedModel if torch's exporter fails.
    """
    proto = export_onnx(module, (example,), opset, ([INPUT], [OUTPUT]), (dynamic or None,))
    for dim in dynamic:
        proto.graph.input[0].type.tensor_type.shape.dim[dim].dim_param = DIMENSIONS[dim]
    return proto


def export_onnx(
    module: nn.Module,
    examples: tuple[torch.Tensor | None, ...],
    opset: int,
    names: tuple[list[str], list[str]],
    dynamic: tuple[dict[int, torch.export.Dim] | None, ...],
) -> ModelProto:
    """The graph of a module for inputs like `examples`.

    names: of inputs and outputs. dynamic: dynamic dimensions of every input.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=max(opset, MIN_EXPORTER_OPSET),
                input_names=names[0],
                output_names=names[1],
                dynamic_shapes=dynamic,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UnsupportedModel(
            f"the ONNX exporter does not support this model: {plainly(error.__cause__ or error)}"
        ) from error
    if exported is None:
        raise UnsupportedModel("the ONNX exporter returned no graph")
    proto: ModelProto = exported.model_proto
    _name_nodes(proto)
    _drop_metadata(proto)
    if opset < MIN_EXPORTER_OPSET:
        _downgrade_to_17(proto)
    return proto


def _downgrade_to_17(proto: ModelProto) -> None:
    """Convert a graph from opset 18 to 17; onnx's own converter cannot downgrade Split."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Split":  # num_outputs is new in 18; the sizes are inputs in both
            remaining = [attribute for attribute in node.attribute if attribute.name != "num_outputs"]
            del node.attribute[:]
            node.attribute.extend(remaining)
        elif node.op_type in ("ReduceMean", "ReduceMax") and len(node.input) == 2:  # axes: an attribute before 18
            axes = constants[node.input.pop()].tolist()
            node.attribute.append(onnx.helper.make_attribute("axes", axes))
            remaining = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(remaining)
    next(opset for opset in proto.opset_import if opset.domain == "").version = 17


def _name_nodes(proto: ModelProto) -> None:
    """Name every node by its layer and operator, such as `blocks.3.attn.qkv/Gemm`, with a number if not unique."""
    producers: dict[str, str] = {}  # value -> layer that computes it
    counts: Counter[str] = Counter()
    for node in proto.graph.node:
        layer = _layer_of(node)
        if layer is None:  # added by the exporter: counted as part of the layer whose output it reads
            layer = next((producers[value] for value in node.input if value in producers), "")
        producers.update(dict.fromkeys(node.output, layer))
        name = f"{layer}/{node.op_type}"
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"


def _layer_of(node: NodeProto) -> str | None:
    """Name of the module whose forward pass recorded the operation; None for nodes added by the exporter."""
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    scopes = ast.literal_eval(metadata.get("pkg.torch.onnx.name_scopes", "[]"))
    return scopes[-2] if len(scopes) > 1 and scopes[0] == "" else None


def _drop_metadata(proto: ModelProto) -> None:
    """Remove the exporter's metadata, which contain paths on this machine."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
