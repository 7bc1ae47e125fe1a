"""int8 as QuantizeLinear and DequantizeLinear nodes (Q/DQ), with calibrated activations and per-channel weights.

onnxruntime's quantizer runs in a subprocess. `mixed_precision` selects the blocks that stay float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from functools import lru_cache, partial
from pathlib import Path

import onnx
from onnx import ModelProto

from toolkit.export.calibrate import BATCH_SIZE, Predict
from toolkit.export.capabilities import INPUT
from toolkit.export.onnx_session import OnnxSession
from toolkit.pixels import Array, padded_batches, run_in_batches
from toolkit.records import BatchRange

QUANTIZED = ["Conv", "Gemm", "MatMul"]
"""Operators whose inputs are quantised."""


class Candidates:
    """int8 versions of a graph, inside onnxruntime's process; the latest one is cached."""

    def __init__(self, source: bytes, calibration: Array, symmetric: bool, products: bool) -> None:
        proto = ModelProto.FromString(source)

        @lru_cache(maxsize=1)
        def quantized_graph(fp32_blocks: tuple[str, ...]) -> ModelProto:
            return quantized(proto, calibration, symmetric=symmetric, products=products, fp32_blocks=fp32_blocks)

        self._graph = quantized_graph
        self._predictor = lru_cache(maxsize=1)(lambda fp32_blocks: predict_with(quantized_graph(fp32_blocks)))

    def graph(self, fp32_blocks: tuple[str, ...]) -> bytes:
        """The graph with the blocks of these names in float32."""
        data: bytes = self._graph(fp32_blocks).SerializeToString()
        return data

    def predict(self, fp32_blocks: tuple[str, ...], images: Array) -> Array:
        """Logits [batch, classes] of the graph with these blocks in float32."""
        return self._predictor(fp32_blocks)(images)


def quantized(
    proto: ModelProto, calibration: Array, *, symmetric: bool, products: bool, fp32_blocks: Collection[str]
) -> ModelProto:
    """The graph with its linear layers in int8.

    symmetric: int8 activations with zero point 0, which TensorRT requires; else uint8, which is faster on CPUs.
    products: quantise attention's two products as well. fp32_blocks: names of blocks that stay float32.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    skipped = [
        node.name
        for node in proto.graph.node
        if any(node.name.startswith(f"{block}.") for block in fp32_blocks)
        or (node.op_type == "MatMul" and not products and not weights.intersection(node.input))
    ]
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        marked = ModelProto()
        marked.CopyFrom(proto)
        add_pre_process_metadata(marked)  # the exporter has already inferred shapes and folded constants
        onnx.save(marked, source)
        quantize_static(
            source,
            result,
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
                # Quantised outputs would cost accuracy and prevent TensorRT from fusing the attention after them.
                "OpTypesToExcludeOutputQuantization": QUANTIZED,
            },
        )
        return onnx.load(result)


def predict_with(proto: ModelProto) -> Predict:
    """Predictions of a graph in onnxruntime on the CPU."""
    return partial(run_in_batches, OnnxSession(proto.SerializeToString()).run, sizes=_batch(proto))


def _batch(proto: ModelProto) -> BatchRange:
    """Batch sizes: that of the graph if it is fixed, else up to BATCH_SIZE."""
    fixed = int(proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value)
    return BatchRange.of([fixed]) if fixed else BatchRange(most=BATCH_SIZE)


class _Reader:
    """A `CalibrationDataReader` of onnxruntime."""

    def __init__(self, images: Array, sizes: BatchRange) -> None:
        self.batches = padded_batches(images, sizes)

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}
