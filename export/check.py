"""Whether what was written is what the model says: a valid graph, and the same answers."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import ModelProto, ValueInfoProto

from toolkit import recipe
from toolkit.errors import CheckFailed
from toolkit.export.calibrate import Images, Predict, to_pixels
from toolkit.export.prepare import Prepared
from toolkit.export.trace import INPUT, OUTPUT
from toolkit.records import ModelInfo, TensorSpec

TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": None}
"""Largest difference from torch's float32 logits, as a share of the largest logit. float32 rounds near 1e-6. What int8
costs is measured in accuracy, when its blocks are chosen."""
CHECKED_BATCHES = (1, 3)
"""Two sizes, neither the traced one: a batch size that was frozen while tracing fails here."""


def specs(info: ModelInfo, options: recipe.Export) -> tuple[TensorSpec, TensorSpec]:
    """What goes into every file and what comes out."""
    batch = "batch" if len(options.batch_size) > 1 else options.batch_size[0]
    return (
        TensorSpec(INPUT, options.input, (batch, 3, info.image_size, info.image_size)),
        TensorSpec(OUTPUT, "float32", (batch, len(info.classes))),
    )


def check_graph(proto: ModelProto, info: ModelInfo, options: recipe.Export) -> None:
    """Valid ONNX with inferable shapes, one input and one output of the shapes we promise."""
    try:
        onnx.checker.check_model(proto, full_check=True)  # with strict shape inference
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"the exported graph is not valid ONNX: {error}") from error
    found = tuple(_spec(value) for value in (*proto.graph.input, *proto.graph.output))
    if found != specs(info, options):
        raise CheckFailed(f"the exported graph takes and gives {found}, expected {specs(info, options)}")


def difference(prepared: Prepared, options: recipe.Export, run: Predict) -> float:
    """Largest difference of a logit between torch and the written file, over random images of each batch size.

    Raises CheckFailed above the precision's tolerance, and for a model whose logits cannot be compared.
    """
    info, largest = prepared.info, 0.0
    sizes = CHECKED_BATCHES if len(options.batch_size) > 1 else options.batch_size
    generator = np.random.default_rng(0)
    for batch in sizes:
        images = generator.standard_normal((batch, 3, info.image_size, info.image_size), dtype=np.float32)
        given: Images = images
        if options.input == "uint8":
            given = to_pixels(images, info.mean, info.std)
            mean, std = (np.asarray(values, np.float32)[None, :, None, None] for values in (info.mean, info.std))
            images = ((given.astype(np.float32) / 255 - mean) / std).astype(np.float32)
        with torch.inference_mode():
            expected = prepared.model.module(torch.from_numpy(images)).numpy()  # [batch, classes]
        largest = max(largest, compared(expected, run(given), TOLERANCES[options.precision]))
    return largest


def compared(expected: Images, found: Images, tolerance: float | None) -> float:
    """Largest difference of two sets of logits [batch, classes], or CheckFailed."""
    scale = float(np.abs(expected).max())
    if not np.isfinite(scale) or scale == 0.0:
        raise CheckFailed(
            f"the largest logit of the model for random images is {scale}: its export cannot be compared with it",
            "train the model first",
        )
    if found.shape != expected.shape:
        raise CheckFailed(f"the exported model gives {found.shape} logits, torch {expected.shape}")
    if not np.isfinite(found).all():
        raise CheckFailed("the exported model gives logits that are not finite")
    largest = float(np.abs(expected - found).max())
    if tolerance is not None and largest > tolerance * scale:
        raise CheckFailed(
            f"the exported model's logits differ from torch's by {largest:.2g}, their scale is {scale:.2g}"
        )
    return largest


def _spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))
