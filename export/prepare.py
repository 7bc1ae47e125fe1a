"""What a target is given: the model rewritten, in the wanted form of attention and number format, and its graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from toolkit import recipe
from toolkit.errors import BadInput, UnsupportedModel
from toolkit.export.attention import FORMS, FlatAttention
from toolkit.export.calibrate import Images, Predict, Sample
from toolkit.export.choices import LINEAR_PATCHES, PAD_HEADS, Choices
from toolkit.export.choose import choose
from toolkit.export.custom_node import add_bodies
from toolkit.export.flat import flatten
from toolkit.export.onnx_session import guest
from toolkit.export.precision import DTYPES, kept_by, lower, ranges
from toolkit.export.quantize import Candidates
from toolkit.export.reference import Reference, answers, check_rewritten, reference
from toolkit.export.rewrite import fold_normalisation, linear_patches, pad_for_kernel, rewrite
from toolkit.export.trace import fits, traced
from toolkit.isolated import Isolated
from toolkit.models.model import Model
from toolkit.models.patches import patch_size
from toolkit.models.resize import allow_dynamic_size
from toolkit.models.shapes import blocks_of
from toolkit.pixels import to_pixels
from toolkit.progress import Progress
from toolkit.records import HeadLayout, Lowered, ModelInfo


@dataclass(frozen=True)
class Prepared:
    """A model ready to be written."""

    model: Model
    """As it was given: what the file is compared with."""
    module: nn.Module
    """Rewritten; in fp16 and bf16 also lowered."""
    make_graph: Callable[[], ModelProto]
    rewrites: dict[str, int]
    """How many places each rewrite has changed."""
    lowered: Lowered | None
    """What stays float32; None: there was nothing to choose."""
    reference: Reference | None
    """What the model answers on the sample; None in fp32, which logits are enough to judge."""

    @cached_property
    def proto(self) -> ModelProto:
        """The graph, in the precision that it is to have."""
        return self.make_graph()

    @property
    def info(self) -> ModelInfo:
        return self.model.info

    @property
    def opset(self) -> int:
        return int(next(each.version for each in self.proto.opset_import if not each.domain))

    @property
    def layouts(self) -> tuple[HeadLayout, ...]:
        """Heads of every attention as they are written, padded where they are."""
        return tuple(each.layer.layout for each in self.module.modules() if isinstance(each, FlatAttention))


def prepare(
    model: Model, options: recipe.Export, choices: Choices, sample: Sample | None, report: Progress
) -> Prepared:
    """Everything up to the writing. `sample` is needed for all precisions but fp32."""
    if not model.info.weights_sha256:
        raise BadInput("the model has no hash, so its export could not be traced back to it", "save the model first")
    if sample is None and options.precision != "fp32":
        raise BadInput(f"{options.precision} needs images of the source domains to choose by", "see data.path")
    work = _Work(model.info, options, choices)
    module, rewrites = work.flat(model.module)
    if sample is None or options.precision == "fp32":
        return Prepared(model, module, partial(work.graph, module), rewrites, None, None)
    if options.input == "uint8":
        sample = sample.of_pixels(model.info.preprocessing)
    known = reference(model, sample)
    check_rewritten(known, work.asked(module))
    if choices.precision == "fp32":  # lowered by the runtime that loads it
        return Prepared(model, module, partial(work.graph, module), rewrites, None, known)
    if choices.precision == "int8":
        proto, lowered = work.quantized(module, known, report)
        return Prepared(model, module, lambda: proto, rewrites, lowered, known)
    module, lowered = work.lowered(module, known, report)
    return Prepared(model, module, partial(work.graph, module), rewrites, lowered, known)


def random_images(info: ModelInfo, options: recipe.Export, batch: int) -> Images:
    """[batch, 3, S, S] like those that the file takes: normalised, or pixels."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((batch, 3, info.image_size, info.image_size), dtype=np.float32)
    return to_pixels(images, info.preprocessing) if options.input == "uint8" else images


@dataclass(frozen=True)
class _Work:
    """The steps of one preparation."""

    info: ModelInfo
    options: recipe.Export
    choices: Choices

    def flat(self, source: nn.Module) -> tuple[nn.Module, dict[str, int]]:
        """A rewritten copy for tracing, in float32, and what was rewritten."""
        module = copy.deepcopy(source).cpu().eval().requires_grad_(False)
        rewrites = rewrite(module, self.options.rewrites)
        if self.choices.heads:
            rewrites[PAD_HEADS] = pad_for_kernel(module, self.choices.heads)
        if self.options.input == "uint8":
            fold_normalisation(module, self.info.preprocessing)
        if self.options.any_image_size:
            allow_dynamic_size(module)
        elif self.choices.linear_patches:
            rewrites[LINEAR_PATCHES] = linear_patches(module)
        if self.options.input == "uint8":
            module.get_submodule("patch_embed").register_forward_pre_hook(_from_pixels)
        size = None if self.options.any_image_size else self.info.image_size
        form, less = FORMS[self.choices.attention], self.choices.only_what_is_read
        done = flatten(module, size, form, only_what_is_read=less, tokens_multiple=self.choices.tokens_multiple)
        return module, {**rewrites, **done}

    def graph(self, module: nn.Module) -> ModelProto:
        batch = self.options.fixed_batch or 2  # torch.export takes sizes 0 and 1 for constants
        example = torch.from_numpy(random_images(self.info, self.options, batch))
        free = {} if self.options.fixed_batch else {0: torch.export.Dim("batch")}
        if self.options.any_image_size:
            patch, least, most = patch_size(module), min(self.options.image_size), max(self.options.image_size)
            for place, name in ((2, "rows"), (3, "columns")):
                free[place] = patch * torch.export.Dim(name, min=least // patch, max=most // patch)
        proto = traced(module, example, self.choices.opset, free)
        add_bodies(proto, module)
        if not proto.functions:  # theirs need the format's newest version
            proto.ir_version = min(proto.ir_version, onnx.helper.find_min_ir_version_for([*proto.opset_import]))
        return proto

    def lowered(self, flat: nn.Module, known: Reference, report: Progress) -> tuple[nn.Module, Lowered]:
        """The module in fp16 or bf16."""
        dtype, sample = DTYPES[self.choices.base], known.sample
        kept = kept_by(ranges(flat, self.fed(sample.calibration)), dtype)

        def module(blocks: Collection[int]) -> nn.Module:
            made = copy.deepcopy(flat)
            lower(made, dtype, kept.and_blocks(blocks))
            return made

        choice = choose(lambda blocks: self.asked(module(blocks)), known, len(blocks_of(flat)), report)
        kept = kept.and_blocks(choice.blocks)
        made = Lowered(
            accuracy=sample.by_domain(choice.accuracies),
            reference=sample.by_domain(known.accuracies),
            blocks=tuple(sorted(kept.blocks)),
            norms=tuple(sorted(kept.norms)),
            softmax=tuple(sorted(kept.softmax)),
            residual=kept.residual,
        )
        return module(()), made

    def quantized(self, flat: nn.Module, known: Reference, report: Progress) -> tuple[ModelProto, Lowered]:
        """The graph in int8; what is not quantised is in the target's own precision for it."""
        base, made = (flat, None) if self.choices.base == "fp32" else self.lowered(flat, known, report)
        source, calibration = self.graph(base), self.fed(known.sample.calibration)
        if not fits(source):
            raise UnsupportedModel("int8 is made from graphs of up to 2 GiB; this one is larger", "another --precision")

        count, doing = len(blocks_of(flat)), "quantising the graph"
        settings = source.SerializeToString(), calibration, self.choices.symmetric, self.options.quantize_attention
        with Isolated(guest(), doing, Candidates, *settings) as candidates:

            def predict(kept: Collection[int]) -> Predict:
                return lambda images: candidates.call(doing, Candidates.answers, tuple(kept), self.fed(images))

            choice = choose(predict, known, count, report)
            made_of = candidates.call(doing, Candidates.graph, choice.blocks)
        made = replace(
            made or Lowered({}, {}),
            accuracy=known.sample.by_domain(choice.accuracies),
            reference=known.sample.by_domain(known.accuracies),
            unquantised=tuple(sorted(choice.blocks)),
        )
        return ModelProto.FromString(made_of), made

    def asked(self, module: nn.Module) -> Predict:
        """What torch computes with a module that is fed as the file is."""
        return lambda images: answers(module, self.fed(images))

    def fed(self, images: Images) -> Images:
        """Images as the file takes them."""
        return to_pixels(images, self.info.preprocessing) if self.options.input == "uint8" else images


def _from_pixels(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].float() / 255,)
