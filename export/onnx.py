"""ONNX: float32, one file, any batch size, plain operators below opset 23, run and compared before it counts.

Attention is written as MatMul, Softmax, MatMul up to opset 22. From 23 on PyTorch writes ONNX's own `Attention`, which
many runtimes do not read yet.
"""

from __future__ import annotations

import copy
import json
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, ValueInfoProto
from torch import Tensor, nn

import toolkit
from toolkit import hashing, recipe, records
from toolkit.errors import BadInput, CheckFailed, StorageError, UnsupportedModel
from toolkit.export import Target
from toolkit.export.rewrite import flat_tokens
from toolkit.models.source import LoadedModel
from toolkit.records import Artifact, ModelInfo, TensorSpec

FILE = "model.onnx"
LARGEST_BYTES = (1 << 31) - (1 << 22)
"""A protobuf file holds less than 2 GiB; 4 MiB are left for the graph beside the weights."""
TOLERANCE = 1e-4
"""Largest difference from torch, as a share of the largest logit. Float32 rounding stays near 1e-6."""
CHECKED_BATCHES = (1, 3)
"""Two sizes, neither the traced one: a batch size that was frozen while tracing fails here."""
BUILDERS = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "timm")


class Onnx:
    """Through `torch.export`; see the module."""

    runtime = "onnxruntime"

    def export(self, model: LoadedModel, options: recipe.Export, out: Path) -> Artifact:
        """Write `model.onnx` and `artifact.json` into `out`.

        Raises BadInput for a model above 2 GiB or one that was never saved, UnsupportedModel where the exporter gives
        up, CheckFailed when the file is not valid ONNX or its logits are not torch's.
        """
        info = model.info
        _refuse_unfit(model)
        module = copy.deepcopy(model.module).cpu().eval()
        proto = _traced(module, info.image_size, options.opset)
        _describe(proto, info)
        _check_graph(proto, info)
        file = out / FILE
        _write(proto, file)
        artifact = Artifact(
            file=FILE,
            sha256=hashing.sha256(file),
            target="onnx",
            precision=options.precision,
            inputs=tuple(_spec(value) for value in proto.graph.input),
            outputs=tuple(_spec(value) for value in proto.graph.output),
            model=info,
            built_with=_versions(),
            options={"opset": options.opset},
            max_abs_difference=_difference(module, file, info.image_size),
        )
        records.save(artifact, out / "artifact.json")
        return artifact


def _refuse_unfit(model: LoadedModel) -> None:
    if not model.info.weights_sha256:
        raise BadInput("the model has no hash, so its export could not be traced back to it", "save the model first")
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.module.state_dict().values())
    if size > LARGEST_BYTES:
        raise BadInput(
            f"the weights take {size / 2**30:.1f} GiB, and a single ONNX file holds less than 2 GiB",
            "prune the model further before exporting it",
        )


def _traced(module: nn.Module, size: int, opset: int) -> ModelProto:
    """The module's graph with a free batch size."""
    example = torch.zeros(2, 3, size, size)  # 2: torch.export takes sizes 0 and 1 for constants
    try:
        with warnings.catch_warnings(), flat_tokens(module, size), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UnsupportedModel(f"the ONNX exporter cannot write this model: {error}") from error
    if program is None:
        raise UnsupportedModel("the ONNX exporter wrote nothing")
    proto: ModelProto = program.model_proto
    return proto


def _describe(proto: ModelProto, info: ModelInfo) -> None:
    """Say in the file how it is used, and drop the exporter's notes, which hold paths of the builder's machine."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    facts = {
        "classes": json.dumps(info.classes),
        "image_size": str(info.image_size),
        "mean": json.dumps(info.mean),
        "std": json.dumps(info.std),
        "interpolation": info.interpolation,
        "model_sha256": info.weights_sha256,
        "toolkit_version": toolkit.__version__,
    }
    onnx.helper.set_model_props(proto, facts)


def _check_graph(proto: ModelProto, info: ModelInfo) -> None:
    """Valid ONNX with inferable shapes, one input and one output of the shapes we promise."""
    try:
        onnx.checker.check_model(proto, full_check=True)  # with strict shape inference
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"the exported graph is not valid ONNX: {error}") from error
    promised = (
        TensorSpec("images", "float32", ("batch", 3, info.image_size, info.image_size)),
        TensorSpec("logits", "float32", ("batch", len(info.classes))),
    )
    found = tuple(_spec(value) for value in (*proto.graph.input, *proto.graph.output))
    if found != promised:
        raise CheckFailed(f"the exported graph takes and gives {found}, expected {promised}")


def _write(proto: ModelProto, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(proto, file)
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error}", "make room on the disk and try again") from error


def _difference(module: nn.Module, file: Path, size: int) -> float:
    """Largest difference of a logit between torch and the written file, over random images of each checked batch."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch in CHECKED_BATCHES:
        images = torch.randn(batch, 3, size, size, generator=generator)
        with torch.inference_mode():
            expected: Tensor = module(images)  # [batch, classes]
        (found,) = session.run(["logits"], {"images": images.numpy()})
        largest = max(largest, _compared(expected.numpy(), np.asarray(found)))
    return largest


def _compared(expected: np.ndarray, found: np.ndarray) -> float:
    """Largest difference of two sets of logits [batch, classes], or CheckFailed."""
    scale = float(np.abs(expected).max())
    if not np.isfinite(scale) or scale == 0.0:
        raise CheckFailed(
            f"the largest logit of the model for random images is {scale}: its export cannot be compared with it",
            "train the model first",
        )
    if found.shape != expected.shape:
        raise CheckFailed(f"the exported model gives {found.shape} logits, torch {expected.shape}")
    difference = float(np.abs(expected - found).max())
    if not difference <= TOLERANCE * scale:  # a NaN fails too
        raise CheckFailed(
            f"the exported model's logits differ from torch's by {difference:.2g}, their scale is {scale:.2g}"
        )
    return difference


def _spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))


def _versions() -> dict[str, str]:
    """Versions of the packages that took part, as far as they are installed."""
    installed = {"toolkit": toolkit.__version__}
    for package in BUILDERS:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


PLUGIN: Target = Onnx()
