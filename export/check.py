"""Whether what was written is what the model says: a valid graph, and the same answers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import ModelProto, ValueInfoProto

from toolkit import recipe
from toolkit.errors import CheckFailed, UnsupportedModel, plainly
from toolkit.export import INPUT, OUTPUT, onnx_session
from toolkit.export.calibrate import Images, Predict, in_batches, shares
from toolkit.export.prepare import Prepared, random_images
from toolkit.export.reference import FLOAT32, answers, compared
from toolkit.export.trace import fits
from toolkit.export.widened import widened
from toolkit.models.resize import resized
from toolkit.pixels import normalised, to_pixels
from toolkit.records import Lowered, ModelInfo, TensorSpec

TOLERANCES = {"fp32": FLOAT32, "fp16": 2e-2, "bf16": 1e-1, "int8": None}
"""Largest difference from torch's float32 logits, as a share of the largest logit. What int8 costs is measured in
accuracy, when its blocks are chosen."""
CHECKED_BATCHES = (1, 3)
"""Two sizes, neither the traced one: a batch size that was frozen while tracing fails here."""


def specs(info: ModelInfo, options: recipe.Export) -> tuple[TensorSpec, TensorSpec]:
    """What goes into every file and what comes out."""
    batch = options.fixed_batch or "batch"
    sides = ("height", "width") if options.any_image_size else (info.image_size, info.image_size)
    return (
        TensorSpec(INPUT, options.input, (batch, 3, *sides)),
        TensorSpec(OUTPUT, "float32", (batch, len(info.classes))),
    )


def check_graph(proto: ModelProto, info: ModelInfo, options: recipe.Export, file: Path | None = None) -> None:
    """Valid ONNX with inferable shapes, one input and one output of the shapes we promise.

    file: where the graph lies, if it is too large to be checked in memory.
    """
    try:
        onnx.checker.check_model(proto if file is None else file, full_check=True)  # with strict shape inference
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"the exported graph is not valid ONNX: {plainly(error)}") from error
    found = tuple(_spec(value) for value in (*proto.graph.input, *proto.graph.output))
    if found != specs(info, options):
        raise CheckFailed(f"the exported graph takes and gives {found}, expected {specs(info, options)}")


def difference(prepared: Prepared, options: recipe.Export, run: Predict) -> float:
    """Largest difference of a logit between torch and the written file, over random images of several sizes.

    Raises CheckFailed above the precision's tolerance, and for a model whose logits cannot be compared.
    """
    largest = 0.0
    batches = (options.fixed_batch,) if options.fixed_batch else CHECKED_BATCHES
    models = [resized(prepared.model, size) for size in dict.fromkeys(options.image_size)] or [prepared.model]
    for batch, model in itertools.product(batches, models):
        info = model.info
        given = random_images(info, options, batch)
        images = normalised(given, info.preprocessing) if options.input == "uint8" else given
        expected = answers(model.module, images)  # [batch, classes]
        largest = max(largest, compared(expected, run(given), TOLERANCES[options.precision]))
    return largest


def judged(prepared: Prepared, options: recipe.Export, run: Predict) -> tuple[float, Lowered | None]:
    """The written file's `difference`, and its `costs` in all precisions but fp32, where logits are enough to judge."""
    return difference(prepared, options, run), None if options.precision == "fp32" else costs(prepared, options, run)


def costs(prepared: Prepared, options: recipe.Export, run: Predict) -> Lowered:
    """What the written file costs on the sample; CheckFailed where that is more than the margin in any domain."""
    known, info = prepared.reference, prepared.info
    assert known is not None  # in fp32 there is nothing to lose

    def answered(images: Images) -> Images:
        return run(to_pixels(images, info.preprocessing) if options.input == "uint8" else images)

    sample = known.sample
    found = sample.accuracies(in_batches(answered, options.fixed_batch) if options.fixed_batch else answered)
    if not sample.passes(found, known.accuracies):
        raise CheckFailed(
            f"the accuracy on a sample falls from {shares(known.accuracies)} to {shares(found)}",
            "another --precision, or a wider parity.margin",
        )
    made = prepared.lowered or Lowered({}, {})
    return replace(made, accuracy=sample.by_domain(found), reference=sample.by_domain(known.accuracies))


def difference_in_onnxruntime(prepared: Prepared, options: recipe.Export) -> float | None:
    """`difference` of the graph that the file is made of, in onnxruntime.

    In bf16, for which it has no kernels on processors, the graph computes in float32; None where it is too large then.
    """
    graph = widened(prepared.proto) if options.precision == "bf16" else prepared.proto
    if not fits(graph):
        return None
    with onnx_session.opened(graph.SerializeToString()) as run:
        return difference(prepared, options, run)


def serialized(proto: ModelProto) -> bytes:
    """The graph's bytes; UnsupportedModel where it does not fit the 2 GiB that they may be."""
    if not fits(proto):
        raise UnsupportedModel(
            "the weights are more than the 2 GiB that this target's reader takes",
            "--onnx writes them beside the graph; in half precision they are half as large",
        )
    data: bytes = proto.SerializeToString()
    return data


def _spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))
