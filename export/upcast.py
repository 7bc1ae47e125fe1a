"""A bfloat16 graph upcast to float32, for a runtime without bfloat16 kernels."""

from __future__ import annotations

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper


def upcast(proto: ModelProto) -> ModelProto:
    """A copy that computes in float32, with weights rounded to bfloat16."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    for weights in copy.graph.initializer:
        _upcast_tensor(weights)
    for part in (copy.graph, *copy.functions):
        del part.value_info[:]  # their dtype is bfloat16
        for attribute in (attribute for node in part.node for attribute in node.attribute):
            if attribute.type == AttributeProto.TENSOR:
                _upcast_tensor(attribute.t)
            elif attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:  # of a Cast node
                attribute.i = TensorProto.FLOAT
    return copy


def _upcast_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.BFLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
