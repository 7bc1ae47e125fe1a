"""Everything before writing a file: rewrite the model, choose precisions, trace the graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property, partial

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from toolkit import recipe
from toolkit.errors import BadInput, UnsupportedModel
from toolkit.export.attention import FORMS
from toolkit.export.calibrate import Predict, Sample
from toolkit.export.custom_node import add_bodies
from toolkit.export.flat import flatten
from toolkit.export.flat_attention import FlatAttention
from toolkit.export.mixed_precision import select_fp32_blocks
from toolkit.export.onnx_session import native_library
from toolkit.export.precision import DTYPES, layers_in_fp32, lower, measure_ranges
from toolkit.export.quantize import Candidates
from toolkit.export.reference import Reference, check_rewritten, compute_reference, predict
from toolkit.export.rewrite import fold_normalisation, linear_patches, pad_for_kernel, rewrite
from toolkit.export.settings import LINEAR_PATCHES, PAD_HEADS, ResolvedSettings
from toolkit.export.trace import fits_one_file, trace_graph
from toolkit.isolated import Isolated
from toolkit.models.block import named_blocks
from toolkit.models.model import Model
from toolkit.pixels import InputFormat
from toolkit.progress import Progress
from toolkit.records import BatchRange, HeadLayout, Lowered, ModelInfo


@dataclass(frozen=True)
class Prepared:
    """A model ready to be written."""

    model: Model
    """The unmodified model, which the file is compared with."""
    input: InputFormat
    """Input format of the file."""
    module: nn.Module
    """Rewritten; in fp16 or bf16 if that is the precision."""
    make_graph: Callable[[], ModelProto]
    rewrites: dict[str, int]
    """Number of changed places by rewrite."""
    lowered: Lowered | None
    """What stays float32, and the accuracy; None in fp32, or if the runtime applies the precision."""
    reference: Reference | None
    """The model's own predictions on the sample; None in fp32, where comparing logits is enough."""

    @cached_property
    def proto(self) -> ModelProto:
        """The graph in its final precision."""
        return self.make_graph()

    @property
    def info(self) -> ModelInfo:
        return self.model.info

    @property
    def opset(self) -> int:
        return int(next(opset.version for opset in self.proto.opset_import if not opset.domain))

    @property
    def layouts(self) -> dict[str, HeadLayout]:
        """Head layout of every attention in the file, including padding, by name."""
        layers = self.module.named_modules()
        return {name: layer.spec.layout for name, layer in layers if isinstance(layer, FlatAttention)}


def prepare(
    model: Model, options: recipe.Export, settings: ResolvedSettings, sample: Sample | None, progress: Progress
) -> Prepared:
    """Prepare a model for writing. Every precision except fp32 needs `sample`."""
    if not model.info.weights_sha256:
        raise BadInput("the model has no hash, so its export could not be traced back to it", "save the model first")
    if sample is None and options.precision != "fp32":
        raise BadInput(f"{options.precision} needs images of the source domains for calibration", "see data.path")
    file = input_format(model.info, options)
    steps = _Steps(model, file, options, settings)
    module, rewrites = steps.rewrite()
    if sample is None or options.precision == "fp32":
        return Prepared(model, file, module, partial(steps.trace, module), rewrites, None, None)
    reference = compute_reference(model, sample.as_seen_by(file))
    check_rewritten(reference, steps.predictor(module))
    if settings.precision == "fp32":  # the runtime lowers the precision when it loads the file
        return Prepared(model, file, module, partial(steps.trace, module), rewrites, None, reference)
    if settings.precision == "int8":
        proto, lowered = steps.quantize(module, reference, progress)
        return Prepared(model, file, module, lambda: proto, rewrites, lowered, reference)
    module, lowered = steps.to_half_precision(module, reference, progress)
    return Prepared(model, file, module, partial(steps.trace, module), rewrites, lowered, reference)


def input_format(info: ModelInfo, options: recipe.Export) -> InputFormat:
    """Input format of a file with these settings."""
    fixed = options.fixed_batch
    return InputFormat.of(info.preprocessing, options.input, BatchRange.of([fixed]) if fixed else None)


@dataclass(frozen=True)
class _Steps:
    """Steps of one preparation."""

    model: Model
    input: InputFormat
    options: recipe.Export
    settings: ResolvedSettings

    def rewrite(self) -> tuple[nn.Module, dict[str, int]]:
        """A rewritten, flattened float32 copy for tracing, and the number of changed places by rewrite."""
        model, dynamic = self.model.copied(), self.options.any_image_size
        module = model.module.cpu().eval().requires_grad_(False)
        rewrites = rewrite(model, self.options.rewrites)
        if self.settings.heads:
            rewrites[PAD_HEADS] = pad_for_kernel(model, self.settings.heads)
        if self.options.input == "uint8":
            fold_normalisation(model)
        if dynamic:
            model.architecture.allow_dynamic_size(module)
        elif self.settings.linear_patches:
            rewrites[LINEAR_PATCHES] = linear_patches(model)
        if self.options.input == "uint8":
            module.get_submodule(model.parts.patches).register_forward_pre_hook(_from_pixels)
        form = FORMS[self.settings.attention]
        trim = (self.settings.trim_last_block or model.info.trim_last_block) and not self.settings.all_queries
        multiple = self.settings.tokens_multiple
        more = flatten(model, form, dynamic=dynamic, trim_last_block=trim, tokens_multiple=multiple)
        return module, {**rewrites, **more}

    def trace(self, module: nn.Module) -> ModelProto:
        """The ONNX graph of a rewritten module."""
        batch = self.options.fixed_batch or 2  # torch.export treats sizes 0 and 1 as constants
        example = torch.from_numpy(self.input.random(batch, self.model.info.image_size))
        dynamic = {} if self.options.fixed_batch else {0: torch.export.Dim("batch")}
        if self.options.any_image_size:
            patch, sizes = self.model.parts.patch_size, self.options.image_size
            for dim, name in ((2, "rows"), (3, "columns")):
                dynamic[dim] = patch * torch.export.Dim(name, min=min(sizes) // patch, max=max(sizes) // patch)
        proto = trace_graph(module, example, self.settings.opset, dynamic)
        add_bodies(proto, module)
        if not proto.functions:  # functions need the newest IR version
            proto.ir_version = min(proto.ir_version, onnx.helper.find_min_ir_version_for([*proto.opset_import]))
        return proto

    def to_half_precision(self, flat: nn.Module, reference: Reference, progress: Progress) -> tuple[nn.Module, Lowered]:
        """The module in fp16 or bf16."""
        dtype, sample, blocks = DTYPES[self.settings.base], reference.sample, [*named_blocks(flat)]
        in_fp32 = layers_in_fp32(measure_ranges(flat, self.input.encode(sample.calibration)), dtype, blocks)

        def mixed(fp32_blocks: Collection[int]) -> nn.Module:
            module = copy.deepcopy(flat)
            lower(module, dtype, in_fp32.with_blocks(fp32_blocks), self.model.parts.patches)
            return module

        selected = select_fp32_blocks(
            lambda fp32_blocks: self.predictor(mixed(fp32_blocks)), reference, len(blocks), progress
        )
        in_fp32 = in_fp32.with_blocks(selected.blocks)
        lowered = Lowered(
            accuracy=sample.by_domain(selected.accuracies),
            reference=sample.by_domain(reference.accuracies),
            blocks=tuple(sorted(in_fp32.blocks)),
            norms=tuple(sorted(in_fp32.norms)),
            softmax=tuple(sorted(in_fp32.softmax)),
            residual=in_fp32.residual,
        )
        return mixed(()), lowered

    def quantize(self, flat: nn.Module, reference: Reference, progress: Progress) -> tuple[ModelProto, Lowered]:
        """The graph in int8; the rest of it is in the target's base precision."""
        fp32 = self.settings.base == "fp32"
        module, lowered = (flat, None) if fp32 else self.to_half_precision(flat, reference, progress)
        graph, calibration = self.trace(module), self.input.encode(reference.sample.calibration)
        if not fits_one_file(graph):
            raise UnsupportedModel("int8 supports graphs up to 2 GiB, and this one is larger", "another --precision")

        blocks, doing = [*named_blocks(flat)], "quantising the graph"
        arguments = graph.SerializeToString(), calibration, self.settings.symmetric, self.options.quantize_attention
        with Isolated(native_library(), doing, Candidates, *arguments) as candidates:

            def names(fp32_blocks: Collection[int]) -> tuple[str, ...]:
                return tuple(blocks[index] for index in fp32_blocks)

            def mixed(fp32_blocks: Collection[int]) -> Predict:
                inputs = names(fp32_blocks)
                return lambda images: candidates.call(doing, Candidates.predict, inputs, self.input.encode(images))

            selected = select_fp32_blocks(mixed, reference, len(blocks), progress)
            quantized = candidates.call(doing, Candidates.graph, names(selected.blocks))
        lowered = replace(
            lowered or Lowered({}, {}),
            accuracy=reference.sample.by_domain(selected.accuracies),
            reference=reference.sample.by_domain(reference.accuracies),
            unquantised=tuple(sorted(selected.blocks)),
        )
        return ModelProto.FromString(quantized), lowered

    def predictor(self, module: nn.Module) -> Predict:
        """Predictions of a rewritten module in PyTorch, from normalised images."""
        return lambda images: predict(module, self.input.encode(images))


def _from_pixels(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].float() / 255,)
