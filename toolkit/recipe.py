"""toolkit.yaml as typed settings.

A recipe holds one section per stage, plus `model` and `data`. Each attribute's docstring is its help: on the command
line, where it is a kebab-case flag, and in the file that `toolkit init` writes. `toolkit/resolve.py` reads the file
and lays flags over it.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from toolkit.preprocessing import CropMode, Interpolation
from toolkit.records import Axis
from toolkit.setting_kinds import Architectures, Argument, Ascending, Conflict, Listed, Mean, Positive, Share, Some, Std

FORMER_NAMES = {"export.target": "export.gpus"}
"""Settings that have another name now."""

RewriteName = Literal[
    "layer-scale",
    "norms",
    "softmax-scale",
    "key-bias",
    "value-bias",
    "pad-heads",
    "pad-tokens",
    "linear-patches",
    "class-token",
]


class Section(BaseModel):
    """Settings that cannot change after they were read, and that know all their keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_true(cls, value: object, info: ValidationInfo) -> object:
        """`epochs: yes` is not 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("it should not be true or false, nor yes, no, on or off without quotes")
        return value


class Model(Section):
    name: str = "deit_tiny_patch16_224"
    """Name of a ViT, DeiT or BEiT in timm."""
    weights: str = "hub"
    """What it starts from: "hub" (timm's weights), "none" (random), or a file: safetensors, or what torch.save has
    written, training checkpoints too."""
    weights_key: str | None = None
    """Which weights of a file that holds several: an entry such as state_dict_ema, or what their names begin with."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Height and width of the input in pixels; the architecture's own by default."""
    args: dict[str, Argument] = {}
    """More arguments for timm, such as patch_size or depth."""
    mean: Mean = None
    """Mean that images are normalised with, for colours from 0 to 1: one number, or one each for red, green and blue.
    By default what a config file beside the weights says, else timm."""
    std: Std = None
    """Standard deviation that images are normalised with; by default as for mean."""
    interpolation: Interpolation | None = None
    """Filter that resizes images: nearest, bilinear, bicubic, lanczos, box or hamming; by default as for mean."""
    crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Images are resized to image_size / crop, and the centre is cut out; by default what a config file beside the
    weights says, else the whole image is squashed to a square."""
    crop_mode: CropMode | None = None
    """What is resized to that length: the shorter side (center, the default where crop is set), both sides (squash), or
    the longer one, with a border of the mean (border)."""


class Data(Section):
    path: str = "digits"
    """A folder DOMAIN/CLASS/image, a folder CLASS/image (then --hold-out none), or "digits", the built-in images."""
    hold_out: str | None = None
    """The domain that is never trained on, to see how the model does there; "none" trains on all."""
    validation_share: Share = 0.2
    """Share of each source domain's images kept from training, for selection and for the accuracies reported."""
    skip_broken: bool = False
    """Leave out images that cannot be read, links to nothing and empty classes, and count them, instead of stopping."""
    background: Literal["white", "grey", "black"] = "white"
    """What transparent pictures are laid on."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that load images; by default one fewer than the cores, and none for built-in data."""


class Training(Section):
    """What `train` and `finetune` have in common: how weights are fitted to the source domains."""

    objective: str = "erm"
    """What is minimised."""
    epochs: Annotated[int, Field(ge=0)] = 5
    """Passes over the source domains; 0 takes the model as it is."""
    batch_size: Positive = 32
    """Images a step, drawn from all source domains in equal parts."""
    optimizer: str = "adamw"
    """A name in timm's list of optimisers. What one computes in bfloat16 is float32 on a CPU that would emulate it."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Largest learning rate of the schedule."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Decoupled weight decay."""
    schedule: str = "cosine"
    """A name in timm's list of schedules."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.5
    """Epochs of linear warm-up."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability mass spread over the other classes."""
    clip_grad: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient."""
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Smallest share of an image's area that a random crop keeps."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    color_jitter: Annotated[float, Field(ge=0)] = 0.3
    """Strength of random changes of brightness, contrast and saturation."""
    grayscale: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Probability that an image loses its colours."""
    evaluations: Positive = 5
    """How often the validation images are looked at; the best state is kept."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the forward and backward pass; bf16 is fast where the hardware has it, and slow elsewhere."""


class Train(Training):
    pass


class Prune(Section):
    method: str = "grouped"
    """The pruning method."""
    criterion: str = "taylor"
    """How the importance of a unit is scored."""
    ratio: Share | None = None
    """Share of units to remove, along each axis unless the scope is global; those inside removed heads do not count."""
    budget: str | None = None
    """What may be left: macs=0.5 or params=0.5 (shares of the dense model), met within 1 %."""
    scope: str = "isomorphic"
    """Who competes with whom: units of one layer (local), all units (global), all units of one kind (isomorphic)."""
    axes: Annotated[tuple[Axis, ...], Listed, Some] = ("head", "mlp")
    """What may be removed: block, head, qk, v, mlp, embed."""
    round_to: Positive = 8
    """Widths left are multiples of this (heads and blocks are counted singly)."""
    steps: Positive = 1
    """Rounds of scoring and removing; 1 is one-shot."""
    samples: Positive = 256
    """Training images of the source domains that a criterion may look at."""

    @model_validator(mode="after")
    def _ratio_or_budget(self) -> Prune:
        if self.ratio is not None and self.budget is not None:
            both = {"ratio": self.ratio, "budget": self.budget}
            raise Conflict(both, "exclude each other", "keep one of them")
        return self


class Finetune(Training):
    epochs: Annotated[int, Field(ge=0)] = 10
    """Passes over the source domains; 0 takes the model as it was cut."""
    distill: bool = True
    """Also learn from the dense model's predictions."""
    distill_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the dense model's predictions against the labels."""
    distill_temperature: Annotated[float, Field(gt=0)] = 2.0
    """Softens both sides' predictions."""


class Export(Section):
    targets: Annotated[tuple[str, ...], Listed, Some] = ("onnx",)
    """File formats to write: onnx, tensorrt, rtx (TensorRT for RTX), openvino, torch."""
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """Number format of weights and activations, written into the graph."""
    opset: Annotated[int, Field(ge=17, le=23)] | None = None
    """ONNX operator set; by default the one that the target reads best."""
    attention: Literal["auto", "decomposed", "packed", "standard", "custom"] = "auto"
    """Plain operators in one of two arrangements, ONNX's Attention (opset 23), or a node toolkit::HeadwiseAttention."""
    batch_size: Annotated[tuple[Positive, ...], Listed, Some, Ascending] = (1, 8, 64)
    """Images a call: one number for a fixed batch, or the least, the usual and the largest."""
    image_size: Annotated[tuple[Positive, ...], Listed, Ascending] = ()
    """Side of the images in pixels; by default the model's. Or the least, the usual and the largest, for any height and
    width between them that patches fill."""
    input: Literal["float32", "uint8"] = "float32"
    """What the file takes: normalised images, or raw pixels."""
    rewrites: Annotated[tuple[RewriteName, ...], Listed] = get_args(RewriteName)
    """Exact rewrites before the export."""
    calibration_images: Positive = 128
    """Training images that show which numbers occur, for all precisions but fp32."""
    calibration_domains: Annotated[tuple[str, ...], Listed] = ()
    """Domains they come from; by default all source domains."""
    quantize_attention: bool = False
    """In int8: attention's two products as well."""
    verify: bool = False
    """Open what was written and compare its answers with the model's on a sample of images."""
    gpus: Architectures | None = None
    """GPU architectures an engine is for, such as sm_87 or sm_86,sm_89. By default this machine's GPU; TensorRT for RTX
    builds for all from Ampere on."""
    builder_level: Annotated[int, Field(ge=0, le=5)] = 3
    """How hard an engine's builder searches."""
    workspace_mib: Positive | None = None
    """Memory an engine's layers may work in, in MiB; by default all there is."""
    version_compatible: bool = False
    """Build an engine that later versions of the library load too."""
    hardware_compatible: bool = False
    """Build an engine for all GPUs from Ampere on."""
    compile: bool = True
    """What `torch` writes is compiled for this processor, where there is a C++ compiler."""
    timing_cache: str | None = None
    """File that remembers what an engine's builder has timed; it is made where it is missing."""

    @property
    def fixed_batch(self) -> int | None:
        """Images a call, where the file takes no other number."""
        return self.batch_size[0] if len(self.batch_size) == 1 else None

    @property
    def any_image_size(self) -> bool:
        """Whether height and width are free."""
        return len(set(self.image_size)) > 1

    @property
    def usual_image_size(self) -> int | None:
        """Side of the images in pixels; None: the model's."""
        return self.image_size[len(self.image_size) // 2] if self.image_size else None


class Parity(Section):
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Accuracy that the exported model may lose against the slim one in any domain."""
    batch_size: Positive = 32
    """Images a call."""


class Bench(Section):
    device: str = "local"
    """Where to measure."""
    runtime: str | None = None
    """What runs the model: by default the runtime of the first exported file; torch also runs model folders."""
    batch_size: Annotated[tuple[Positive, ...], Listed, Some] = (1, 8)
    """Images a call; several sizes are measured one after the other."""
    seconds: Annotated[float, Field(gt=0)] = 10.0
    """Measure at least this long for each batch size, all models together ..."""
    samples: Annotated[int, Field(ge=2)] = 30
    """... and at least this many calls of each model."""
    threads: Positive | None = None
    """Threads the runtime may use; by default one for each core there is to use."""


class Recipe(Section):
    run: str = "runs/default"
    """Folder of the results."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random."""
    model: Model = Model()
    data: Data = Data()
    train: Train = Train()
    prune: Prune = Prune()
    finetune: Finetune = Finetune()
    export: Export = Export()
    parity: Parity = Parity()
    bench: Bench = Bench()
