"""int8 as QuantizeLinear and DequantizeLinear nodes (Q/DQ), calibrated on images, weights by channel.

onnxruntime's quantizer does the work, in a process of its own. Which blocks are quantised is measured: all, unless that
loses more than the margin; then the most sensitive ones go back to float32, as few as will do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import onnx
from onnx import ModelProto

from toolkit.export import INPUT
from toolkit.export.calibrate import BATCH, Images, Predict, filled, in_batches
from toolkit.export.onnx_session import OnnxSession

QUANTIZED = ["Conv", "Gemm", "MatMul"]
"""Operators whose inputs are quantised."""


class Candidates:
    """The int8 versions of a graph, held where onnxruntime is. The one that was asked last stays ready."""

    def __init__(self, source: bytes, calibration: Images, symmetric: bool, products: bool) -> None:
        proto = ModelProto.FromString(source)

        @lru_cache(maxsize=1)
        def made(kept: tuple[int, ...]) -> ModelProto:
            return quantized(proto, calibration, symmetric=symmetric, products=products, kept=kept)

        self._made = made
        self._predict = lru_cache(maxsize=1)(lambda kept: predict_with(made(kept)))

    def graph(self, kept: tuple[int, ...]) -> bytes:
        """The version in which these blocks stay float32."""
        data: bytes = self._made(kept).SerializeToString()
        return data

    def answers(self, kept: tuple[int, ...], images: Images) -> Images:
        """Its logits [batch, classes]."""
        return self._predict(kept)(images)


def quantized(
    proto: ModelProto, calibration: Images, *, symmetric: bool, products: bool, kept: Collection[int]
) -> ModelProto:
    """The graph with its linear layers in int8.

    symmetric: activations in int8 around zero, as TensorRT wants them; else uint8, which processors run faster.
    products: attention's two products as well. kept: blocks that stay float32.
    """
    weights = {each.name for each in proto.graph.initializer}
    skipped = [
        node.name
        for node in proto.graph.node
        if any(node.name.startswith(f"blocks.{block}.") for block in kept)
        or (node.op_type == "MatMul" and not products and not weights.intersection(node.input))
    ]
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    with tempfile.TemporaryDirectory() as folder:
        source, written = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        marked = ModelProto()
        marked.CopyFrom(proto)
        add_pre_process_metadata(marked)  # shapes are inferred and constants folded, as the quantizer wants it
        onnx.save(marked, source)
        quantize_static(
            source,
            written,
            _Reader(calibration, _batch(proto)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=skipped,
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not symmetric,
                # Rounding the outputs too costs accuracy, and keeps TensorRT from fusing attention behind them.
                "OpTypesToExcludeOutputQuantization": QUANTIZED,
            },
        )
        return onnx.load(written)


def predict_with(proto: ModelProto) -> Predict:
    """The answers of a graph, from onnxruntime on the processor."""
    return in_batches(OnnxSession(proto.SerializeToString()).run, _batch(proto))


def _batch(proto: ModelProto) -> int:
    """Images a call: the graph's, where it is fixed."""
    return int(proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value) or BATCH


class _Reader:
    """A `CalibrationDataReader`."""

    def __init__(self, images: Images, size: int) -> None:
        self.batches = filled(images, size)

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}
