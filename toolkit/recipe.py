"""toolkit.yaml as typed settings.

A recipe has one section per stage, plus `model` and `data`; the settings of plug-ins are in their own files. An
attribute's docstring is its help text, both for its kebab-case flag and in the file that `toolkit init` writes.
`toolkit/resolve.py` reads the file and applies flags.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from toolkit.preprocessing import CropMode, Interpolation
from toolkit.records import Aggregate, Axis, RewriteName
from toolkit.section import FlagName, PluginSection, PluginsOf, Section
from toolkit.setting_types import (
    Argument,
    Ascending,
    Conflict,
    Fraction,
    Listed,
    Mean,
    Positive,
    Some,
    Std,
)


class Model(Section):
    name: Annotated[str, FlagName("model")] = "deit_tiny_patch16_224"
    """A ViT, DeiT or BEiT by its name in timm, a folder that transformers wrote (DINOv2 as well), or a factory
    package.module:function."""
    weights: str = "hub"
    """Initial weights: "hub" (timm's, or the folder's own), "none" (random), or a file: safetensors, or written by
    torch.save, including training checkpoints."""
    weights_key: str | None = None
    """Selects the weights in a file with several: an entry such as state_dict_ema, or a name prefix."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Height and width of the input in pixels; default: the architecture's own."""
    args: dict[str, Argument] = {}  # noqa: RUF012 (pydantic copies it)
    """Additional arguments for timm, such as patch_size or depth."""
    mean: Mean = None
    """Normalisation mean, for colours from 0 to 1: one number, or one each for red, green and blue. Default: from a
    config file next to the weights, else timm's."""
    std: Std = None
    """Normalisation standard deviation; default as for mean."""
    interpolation: Interpolation | None = None
    """Resize filter: nearest, bilinear, bicubic, lanczos, box or hamming; default as for mean."""
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Images are resized to image_size / crop and centre-cropped. Default: from a config file next to the weights, else
    the whole image is squashed to a square."""
    crop_mode: CropMode | None = None
    """Which side is resized to that length: the shorter (center, the default if crop is set), both (squash), or the
    longer, padded with the mean (border)."""


class Data(Section):
    path: Annotated[str, FlagName("data")] = "digits"
    """A folder DOMAIN/CLASS/image, a folder CLASS/image (then --hold-out none), or "digits", the built-in images."""
    hold_out: str | None = None
    """Held-out domain: never trained on, only evaluated; "none" trains on all domains."""
    validation_share: Fraction = 0.2
    """Fraction of each source domain's images used for validation: model selection and reported accuracies."""
    skip_broken: bool = False
    """Skip and count unreadable images, dangling links and empty classes instead of stopping."""
    background: Literal["white", "grey", "black"] = "white"
    """Background colour of transparent images."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Worker processes that load images; default: one fewer than CPU cores, none for built-in data."""


class Training(PluginSection):
    """Settings that `train` and `finetune` share."""

    objective: Annotated[str, PluginsOf("toolkit.dg.objectives")] = "erm"
    """Training objective."""
    epochs: Annotated[int, Field(ge=0)] = 5
    """Passes over the source domains; 0 uses the model unchanged."""
    batch_size: Positive = 32
    """Batch size, drawn in equal parts from all source domains."""
    optimizer: str = "adamw"
    """Optimiser, by timm's name. On CPUs that emulate bfloat16, its bfloat16 computations use float32."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Decoupled weight decay."""
    schedule: str = "cosine"
    """Learning rate schedule, by timm's name."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.5
    """Epochs of linear warm-up."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing: probability mass given to the other classes."""
    clip_grad: Annotated[float, Field(gt=0)] | None = 1.0
    """Maximum gradient norm."""
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Minimum fraction of an image's area in a random crop."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    color_jitter: Annotated[float, Field(ge=0)] = 0.3
    """Strength of random brightness, contrast and saturation changes."""
    grayscale: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Probability of conversion to greyscale."""
    evaluations: Positive = 5
    """Number of evaluations on the validation images; the best state is kept."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of forward and backward pass; bf16 is slow on hardware without bf16 support."""


class Train(Training):
    pass


OF_GROUPED = ("ratio", "criterion", "scope", "steps")
"""Settings of `prune` that choose the method `grouped` if no method is named."""
AXES_OF_GROUPED = ("block", "head", "embed")
"""Axes that do so."""


class Prune(PluginSection):
    method: Annotated[str, PluginsOf("toolkit.prune.methods")] = "oneshot"
    """The pruning method. Without one, ratio, criterion, scope, steps and the axes block, head and embed choose
    grouped."""
    criterion: Annotated[str, PluginsOf("toolkit.prune.criteria")] = "taylor"
    """Importance criterion of units."""
    ratio: Fraction | None = None
    """Fraction of units to remove, per axis unless the scope is global; units inside removed heads do not count."""
    budget: str | None = None
    """Budget as a fraction of the dense model: macs=0.5 or params=0.5, achieved within 1 %, or latency=0.5; or a
    latency such as latency=4ms."""
    scope: Annotated[str, PluginsOf("toolkit.prune.scopes")] = "isomorphic"
    """Which units are ranked together: those of a layer (local), all (global), all of a kind (isomorphic)."""
    axes: Annotated[tuple[Axis, ...], Listed, Some] = ("qk", "v", "mlp")
    """Axes to prune: block, head, qk, v, mlp, embed. With other methods than oneshot, the default is head, mlp."""
    round_to: Positive = 8
    """Remaining widths are multiples of this (except for numbers of heads and blocks)."""
    steps: Positive = 1
    """Pruning rounds, each with new scores."""
    samples: Positive = 256
    """Training images of the source domains for data-driven criteria, bases and compensation."""
    aggregate: Aggregate = "mean"
    """Error over the source domains that oneshot, ridge and obs minimise: their mean, or the largest (worst)."""
    finalists: Positive = 1
    """Number of best models of oneshot that are trained for some steps, without labels, before one of them is chosen;
    1: none."""
    basis: Annotated[str, PluginsOf("toolkit.prune.bases")] = "svd"
    """Exact change of basis before scoring. With other methods than oneshot, the default is none."""
    compensation: Annotated[str, PluginsOf("toolkit.prune.compensate")] = "sequential"
    """Closed-form compensation of removed units. With other methods than oneshot, the default is none."""
    device: Annotated[str, PluginsOf("toolkit.bench.devices")] = "local"
    """Device of a latency budget."""
    runtime: Annotated[str | None, PluginsOf("toolkit.bench.runtimes")] = None
    """Runtime of a latency budget; default: that of the first exported file."""
    at_batch: Positive = 1
    """Batch size of a latency budget."""

    @model_validator(mode="before")
    @classmethod
    def _choose_method(cls, values: object) -> object:
        """Choose `grouped` by settings that `oneshot` does not have, unless a method is named."""
        if isinstance(values, dict) and "method" not in values and _asks_for_grouped(values):
            return {**values, "method": "grouped"}
        return values

    @classmethod
    def with_other_defaults(cls) -> set[str]:
        """Settings whose default depends on a plug-in, and those that choose the method."""
        return super().with_other_defaults() | {"method", *OF_GROUPED}

    @model_validator(mode="after")
    def _ratio_or_budget(self) -> Prune:
        if self.ratio is not None and self.budget is not None:
            both = {"ratio": self.ratio, "budget": self.budget}
            raise Conflict(both, "are mutually exclusive", "keep one of them")
        return self


def _asks_for_grouped(prune: dict[str, Any]) -> bool:
    """Whether settings of `prune`, not validated yet, are those of `grouped`."""
    axes = prune.get("axes")
    named = axes.split(",") if isinstance(axes, str) else axes if isinstance(axes, list | tuple) else ()
    if any(str(axis).strip() in AXES_OF_GROUPED for axis in named):
        return True
    return any(prune.get(name) is not None for name in OF_GROUPED)


class Finetune(Training):
    epochs: Annotated[int, Field(ge=0)] = 10
    """Passes over the source domains; 0 uses the pruned model unchanged."""
    schedule: str = "constant"
    """Learning rate schedule, by timm's name; weight averaging takes the place of its decay."""
    final_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Learning rate at the end of a decaying schedule, as a fraction of the peak."""
    distill: bool = True
    """Distil from the dense model."""
    distill_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the distillation loss; the labels' loss has the rest."""
    distill_temperature: Annotated[float, Field(gt=0)] = 2.0
    """Distillation temperature."""
    average: bool = True
    """Keep the mean of the weights of many steps instead of those of one step."""
    average_from: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Fraction of the steps after which averaging starts."""


class Export(PluginSection):
    targets: Annotated[tuple[str, ...], Listed, Some, PluginsOf("toolkit.export", flags=True)] = ("onnx",)
    """File formats to write."""
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """Precision of weights and activations in the file."""
    attention: Literal["auto", "decomposed", "packed", "standard", "custom"] = "auto"
    """Form of attention: plain operators (decomposed, packed), ONNX Attention (standard, opset 23), or a custom node
    toolkit::HeadwiseAttention (custom)."""
    batch_size: Annotated[tuple[Positive, ...], Listed, Some, Ascending] = (1, 8, 64)
    """Batch size: one number (fixed), or minimum, typical and maximum."""
    image_size: Annotated[tuple[Positive, ...], Listed, Ascending] = ()
    """Image size in pixels; default: the model's. Or minimum, typical and maximum, for any height and width in between
    that is a multiple of the patch size."""
    input: Literal["float32", "uint8"] = "float32"
    """Input of the file: normalised images (float32) or raw pixels (uint8)."""
    rewrites: Annotated[tuple[RewriteName, ...], Listed] = get_args(RewriteName)
    """Exact graph rewrites to apply."""
    calibration_images: Positive = 128
    """Training images for calibration, in all precisions except fp32."""
    calibration_domains: Annotated[tuple[str, ...], Listed] = ()
    """Domains of the calibration images; default: all source domains."""
    quantize_attention: bool = False
    """Quantise the two products of attention as well (int8)."""
    verify: bool = False
    """Run the exported file and compare its predictions with the model's on a sample of images."""

    @property
    def fixed_batch(self) -> int | None:
        """The batch size, if it is fixed."""
        return self.batch_size[0] if len(self.batch_size) == 1 else None

    @property
    def any_image_size(self) -> bool:
        """Whether height and width are dynamic."""
        return len(set(self.image_size)) > 1

    @property
    def usual_image_size(self) -> int | None:
        """Typical image size in pixels; None: the model's."""
        return self.image_size[len(self.image_size) // 2] if self.image_size else None


class Parity(Section):
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Maximum accuracy loss of the exported model against the slim one, in any domain."""
    batch_size: Positive = 32
    """Batch size."""


class Bench(PluginSection):
    device: Annotated[str, PluginsOf("toolkit.bench.devices")] = "local"
    """Device to measure on."""
    runtime: Annotated[str | None, PluginsOf("toolkit.bench.runtimes")] = None
    """Runtime; default: that of the first exported file. torch also runs model folders; torch-cuda and torch-compiled
    run them on a GPU in bfloat16."""
    clock: Annotated[str, PluginsOf("toolkit.bench.clocks")] = "host"
    """Clock: host times whole calls; GPU clocks time calls without the copies to and from the GPU."""
    batch_size: Annotated[tuple[Positive, ...], Listed, Some] = (1, 8)
    """Batch sizes, measured one after the other."""
    seconds: Annotated[float, Field(gt=0)] = 10.0
    """Minimum measuring time per batch size, for all models together ..."""
    samples: Annotated[int, Field(ge=2)] = 30
    """... and minimum number of samples per model."""
    threads: Positive | None = None
    """Threads of the runtime; default: one per available core."""


class Recipe(Section):
    run: str = "runs/default"
    """Run folder."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Random seed."""
    model: Model = Model()
    data: Data = Data()
    train: Train = Train()
    prune: Prune = Prune()
    finetune: Finetune = Finetune()
    export: Export = Export()
    parity: Parity = Parity()
    bench: Bench = Bench()

    def needs(self, stages: Collection[str]) -> tuple[str, ...]:
        """Packages that the plug-ins of these stages need, by module name."""
        sections = (section for name, section in self if name in stages and isinstance(section, PluginSection))
        return tuple(dict.fromkeys(itertools.chain.from_iterable(section.needs() for section in sections)))
