"""Checks of exported files: a valid graph, logits close to PyTorch's, and accuracy within the margin."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
from onnx import ModelProto, ValueInfoProto

from toolkit import recipe
from toolkit.errors import CheckFailed, UnsupportedModel, plainly
from toolkit.export import onnx_session
from toolkit.export.calibrate import Predict, percentages
from toolkit.export.capabilities import INPUT, OUTPUT
from toolkit.export.prepare import Prepared
from toolkit.export.reference import FP32_TOLERANCE, max_difference, predict
from toolkit.export.trace import fits_one_file
from toolkit.export.upcast import upcast
from toolkit.models.resize import resized
from toolkit.records import Lowered, ModelInfo, TensorSpec

TOLERANCES = {"fp32": FP32_TOLERANCE, "fp16": 2e-2, "bf16": 1e-1, "int8": None}
"""Largest difference from PyTorch's float32 logits, as a fraction of the largest logit; int8 is judged by its accuracy,
when its blocks are chosen."""
CHECKED_BATCHES = (1, 3)
"""Two batch sizes, both unlike the traced one: a batch size that was baked in while tracing fails here."""


def specs(info: ModelInfo, options: recipe.Export) -> tuple[TensorSpec, TensorSpec]:
    """Input and output of every exported file."""
    batch = options.fixed_batch or "batch"
    sides = ("height", "width") if options.any_image_size else (info.image_size, info.image_size)
    return (
        TensorSpec(INPUT, options.input, (batch, 3, *sides)),
        TensorSpec(OUTPUT, "float32", (batch, len(info.classes))),
    )


def check_graph(proto: ModelProto, info: ModelInfo, options: recipe.Export, file: Path | None = None) -> None:
    """Raise CheckFailed unless the graph is valid ONNX with inferable shapes, and input and output as in `specs`.

    file: the graph on disk, if it is too large to be checked in memory.
    """
    try:
        onnx.checker.check_model(proto if file is None else file, full_check=True)  # with strict shape inference
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"the exported graph is not valid ONNX: {plainly(error)}") from error
    actual = tuple(_spec(value) for value in (*proto.graph.input, *proto.graph.output))
    if actual != specs(info, options):
        raise CheckFailed(f"the exported graph's input and output are {actual}, expected {specs(info, options)}")


def difference(prepared: Prepared, options: recipe.Export, predict_exported: Predict) -> float:
    """Largest difference of a logit between PyTorch and the exported file, on random images of several sizes.

    Raises CheckFailed above the precision's tolerance, and for a model whose logits cannot be compared.
    """
    largest = 0.0
    batches = (options.fixed_batch,) if options.fixed_batch else CHECKED_BATCHES
    models = [resized(prepared.model, size) for size in dict.fromkeys(options.image_size)] or [prepared.model]
    for batch, model in itertools.product(batches, models):
        inputs = prepared.input.random(batch, model.info.image_size)
        expected = predict(model.module, prepared.input.decode(inputs))  # [batch, classes]
        largest = max(largest, max_difference(expected, predict_exported(inputs), TOLERANCES[options.precision]))
    return largest


def check_file(prepared: Prepared, options: recipe.Export, predict_exported: Predict) -> tuple[float, Lowered | None]:
    """`difference` and, except in fp32, `check_accuracy` of the exported file."""
    largest = difference(prepared, options, predict_exported)
    return largest, None if options.precision == "fp32" else check_accuracy(prepared, options, predict_exported)


def check_accuracy(prepared: Prepared, options: recipe.Export, predict_exported: Predict) -> Lowered:
    """Accuracy of the exported file on the sample; CheckFailed if any domain loses more than the margin."""
    reference = prepared.reference
    assert reference is not None  # every precision except fp32 has one
    sample = reference.sample
    accuracies = sample.accuracies(partial(prepared.input.logits, predict_exported))
    if not sample.passes(accuracies, reference.accuracies):
        raise CheckFailed(
            f"the accuracy on a sample drops from {percentages(reference.accuracies)} to {percentages(accuracies)}",
            "another --precision, or a larger parity.margin",
        )
    lowered = prepared.lowered or Lowered({}, {})
    return replace(lowered, accuracy=sample.by_domain(accuracies), reference=sample.by_domain(reference.accuracies))


def difference_in_onnxruntime(prepared: Prepared, options: recipe.Export) -> float | None:
    """`difference` of the file's graph, run in onnxruntime.

    A bf16 graph is upcast to float32, since onnxruntime has no bf16 CPU kernels; None if it is then too large.
    """
    graph = upcast(prepared.proto) if options.precision == "bf16" else prepared.proto
    if not fits_one_file(graph):
        return None
    with onnx_session.opened(graph.SerializeToString()) as predict_exported:
        return difference(prepared, options, predict_exported)


def serialized(proto: ModelProto) -> bytes:
    """The graph's bytes; UnsupportedModel if they exceed 2 GiB."""
    if not fits_one_file(proto):
        raise UnsupportedModel(
            "the weights exceed the 2 GiB that this target's parser can read",
            "--onnx writes larger weights to a separate file; half precision halves them",
        )
    data: bytes = proto.SerializeToString()
    return data


def _spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))
