"""A bfloat16 graph in float32: the same nodes and weights for a runtime that has no kernels for bfloat16."""

from __future__ import annotations

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper


def widened(proto: ModelProto) -> ModelProto:
    """A copy that computes in float32, with weights as they were rounded."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    for weights in copy.graph.initializer:
        _widen(weights)
    for part in (copy.graph, *copy.functions):
        del part.value_info[:]  # which say bfloat16
        for attribute in (attribute for node in part.node for attribute in node.attribute):
            if attribute.type == AttributeProto.TENSOR:
                _widen(attribute.t)
            elif attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:  # of a Cast
                attribute.i = TensorProto.FLOAT
    return copy


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.BFLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
