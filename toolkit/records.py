"""What the stages exchange: frozen records, written as JSON, read strictly.

Units stand in the names. Raw samples are kept and statistics computed when read. Nothing here imports torch or numpy,
and everything it needs is pure Python, so that a record loads on any device.

A tuple of numbers is a tuple; `dict` maps names to values. Every file holds one record with its `schema` number; an
unknown field, a missing one or a wrong type is a `RecordError` that names the file and the field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from toolkit import strict_json
from toolkit.preprocessing import Preprocessing

SCHEMA = 1
"""Number of the format below; a change that old files do not survive raises it."""

Axis: TypeAlias = Literal["block", "head", "qk", "v", "mlp", "embed"]
"""What can be cut: a whole block, a whole head, a query/key unit or value unit of a head, a hidden unit of an MLP, a
residual channel."""

DENSE = "dense"
"""The model before pruning, wherever subjects are compared."""
SLIM = "slim"
"""The model after pruning and fine-tuning."""

Setting: TypeAlias = int | float | bool | str | None
"""A value in a timm model's arguments."""


@dataclass(frozen=True)
class HeadLayout:
    """The heads of one attention, in their order in memory: (qk_dim, v_dim) each, equal ones side by side."""

    heads: tuple[tuple[int, int], ...]

    @property
    def qk_width(self) -> int:
        """Width of all queries (and of all keys) together."""
        return sum(qk for qk, _ in self.heads)

    @property
    def v_width(self) -> int:
        """Width of all values together, which the output projection reads."""
        return sum(v for _, v in self.heads)

    @property
    def buckets(self) -> tuple[tuple[int, int, int], ...]:
        """Runs of equal heads: (number of heads, qk_dim, v_dim)."""
        return tuple((len(list(run)), qk, v) for (qk, v), run in groupby(self.heads))


@dataclass(frozen=True)
class ModelInfo:
    """A model folder's `model.json`: how to build the model that `model.safetensors` fills."""

    name: str
    """timm's name of the architecture."""
    args: dict[str, Setting]
    """timm's arguments: image size, depth, ..."""
    classes: tuple[str, ...]
    image_size: int
    """Height and width of the input, in pixels."""
    preprocessing: Preprocessing
    removed_blocks: tuple[int, ...]
    """Indices in the source architecture."""
    layouts: tuple[HeadLayout, ...]
    """One for each attention that is left, in order."""
    parameters: int
    macs: int
    """Multiply-accumulates for one image, attention's two products included."""
    weights_sha256: str
    """Hash of model.safetensors; the name of this model everywhere else."""
    made_from: str | None = None
    """`weights_sha256` of the model this one was cut from or tuned from."""
    schema: int = SCHEMA


@dataclass(frozen=True)
class BlockSummary:
    """What one transformer block is made of."""

    block: int
    """Index in the source architecture."""
    layout: HeadLayout
    mlp_width: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class ModelSummary:
    """The sizes of a model, block by block; what `toolkit inspect` and the report show."""

    name: str
    image_size: int
    preprocessing: Preprocessing
    embed_width: int
    parameters: int
    macs: int
    bytes_moved: int
    """Weights and activations read and written for one image in float32, each once a layer."""
    blocks: tuple[BlockSummary, ...]


@dataclass(frozen=True)
class Cut:
    """Units removed along one axis at one place, by their index before the cut.

    Places: "residual" for embed, "blocks" for block, else a module's name ("blocks.3.attn", "blocks.3.mlp").
    The units of qk and v are counted through all heads of a layer, in memory order.
    """

    place: str
    axis: Axis
    units: tuple[int, ...]


@dataclass(frozen=True)
class PrunePlan:
    """What to remove from the model whose weights have this hash, and how it was decided."""

    model_sha256: str
    method: str
    criterion: str
    scope: str
    budget: str
    """As asked: "ratio=0.5", "macs=0.5", "params=0.3"."""
    met: float
    """The same quantity after the cut: share of MACs or parameters left, or of units removed (those inside removed
    heads and blocks apart)."""
    seed: int
    cuts: tuple[Cut, ...]
    schema: int = SCHEMA


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an artifact; a dimension that may vary has a name instead of a number."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


FusionStatus: TypeAlias = Literal["fused", "partly", "not", "unknown"]


@dataclass(frozen=True)
class Fusion:
    """What became of one block's attention in a file: one kernel for each run of equal heads, or its parts."""

    block: int
    """Index in the model that was exported."""
    status: FusionStatus
    kernels: tuple[str, ...]
    """Those that compute it or its parts."""
    reason: str = ""
    """Why it is not fused, as far as it is known."""
    mend: str = ""
    """What to try; empty where this target has no fused attention."""


@dataclass(frozen=True)
class Lowered:
    """What stays float32 in a lower precision, and what the lower one costs in accuracy."""

    accuracy: dict[str, float]
    """Source domain to the share of its sample that is answered right."""
    reference: dict[str, float]
    """The same before."""
    unquantised: tuple[int, ...] = ()
    """Blocks that are not in int8."""
    blocks: tuple[int, ...] = ()
    """Blocks that are float32 altogether."""
    norms: tuple[str, ...] = ()
    """Layer norms that are float32 in blocks that are not."""
    softmax: tuple[str, ...] = ()
    """Attentions whose softmax is."""
    residual: bool = False
    """Whether the residual sum is."""


@dataclass(frozen=True)
class Artifact:
    """One file that can be run, and everything needed to refuse a mismatch before loading it."""

    file: str
    """Relative to the record's folder."""
    sha256: str
    target: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: ModelInfo
    """The model inside, with its classes and input normalisation."""
    built_with: dict[str, str]
    """Package versions of the builder."""
    options: dict[str, Setting] = field(default_factory=dict)
    """Target-specific choices: opset, ..."""
    device_architecture: str | None = None
    """What it was compiled for; None: runs anywhere."""
    max_abs_difference: float | None = None
    """Largest difference of a logit from the torch model, seen when the file was written and run; None: not run."""
    also: dict[str, str] = field(default_factory=dict)
    """Files that belong to it, and their sha256: weights beside a graph, the list of an engine's layers."""
    rewrites: dict[str, int] = field(default_factory=dict)
    """Exact rewrites made before the export, and at how many places."""
    lowered: Lowered | None = None
    """What stays float32 in a lower precision, and what that one costs; None: it is float32."""
    fusion: tuple[Fusion, ...] = ()
    """What became of every block's attention; empty: not known."""
    notes: tuple[str, ...] = ()
    """What a user should know."""
    schema: int = SCHEMA


Verdict: TypeAlias = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """Two sides on the same images: `candidate` against `reference`."""

    reference: str
    candidate: str
    agreement: float
    """Share of images with the same top-1 class."""
    difference: float
    """Accuracy of candidate minus accuracy of reference."""
    low: float
    high: float
    """Ends of the paired 95 % interval of the difference."""
    verdict: Verdict | None
    """Whether the difference stays above -margin; None where no margin was asked for."""


@dataclass(frozen=True)
class DomainParity:
    """All sides on one domain's images; predictions are kept, image by image, in the order of `labels`."""

    domain: str
    held_out: bool
    """True for the domain that was never trained on; else these are the validation images of a source domain."""
    labels: tuple[int, ...]
    predictions: dict[str, tuple[int, ...]]
    accuracy: dict[str, float]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class ParityReport:
    """Accuracy per domain of every side, and whether the artifact may ship."""

    margin: float
    sides: dict[str, str]
    """Name of a side (DENSE, SLIM, "onnx-fp32") and the sha256 of the file that produced its predictions."""
    domains: tuple[DomainParity, ...]
    verdict: Verdict
    """The worst of the domains' verdicts; at best "undecided" where a side could not be opened, and "fail" where its
    runtime crashed."""
    unopened: dict[str, str] = field(default_factory=dict)
    """Name of an exported side that this machine cannot run, and why."""
    crashed: tuple[str, ...] = ()
    """Those of them whose runtime crashed."""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Environment:
    """What the work ran on."""

    toolkit: str
    python: str
    platform: str
    processor: str
    cores: int
    """Those that the work could use."""
    memory_bytes: int
    gpu: str | None
    driver: str | None
    libraries: dict[str, str]
    power_mode: str | None = None
    clocks_mhz: tuple[float, ...] = ()
    schema: int = SCHEMA


@dataclass(frozen=True)
class Telemetry:
    """What the machine did while it measured; None: not known on this machine."""

    load_average: float | None = None
    """Runnable processes when the measurement began, this one not counted."""
    cpu_share: float | None = None
    """Processor time taken by other processes during the measurement, as a share of all cores."""
    temperature_c: tuple[float, ...] = ()
    throttled: bool | None = None


@dataclass(frozen=True)
class Measurement:
    """Every latency sample of one artifact under one load."""

    subject: str
    """What is measured: DENSE or SLIM."""
    artifact_sha256: str
    runtime: str
    device: str
    scenario: str
    batch_size: int
    threads: int
    latency_ms: tuple[float, ...]
    """One sample a call, warm-up excluded; sample i of two measurements of one session were taken side by side."""
    warmup_ms: tuple[float, ...]
    load_ms: float
    """From file to a session that is ready."""
    peak_memory_bytes: int | None
    """Peak resident memory of the process that ran it; None where several subjects share a process."""
    energy_j: float | None
    telemetry: Telemetry
    environment: Environment
    reasons: tuple[str, ...]
    """Why it is INVALID; empty: VALID."""
    schema: int = SCHEMA

    @property
    def valid(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class BenchReport:
    """Measurements taken interleaved in one session."""

    measurements: tuple[Measurement, ...]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Evaluation:
    """The state of training at one step."""

    step: int
    train_loss: float
    """Mean over the steps since the evaluation before."""
    accuracy: dict[str, float]
    """Domain to accuracy on its validation images; source domains only."""


@dataclass(frozen=True)
class TrainingHistory:
    """How a model was trained and which of its states was kept."""

    objective: str
    steps: int
    seconds: float
    evaluations: tuple[Evaluation, ...]
    selected_step: int
    schema: int = SCHEMA


@dataclass(frozen=True)
class StageRecord:
    """`stage.json` of a finished stage: made from what, by whom."""

    stage: str
    toolkit: str
    inputs: dict[str, str]
    """Name of each input and its hash; equal inputs make the stage up to date."""
    seconds: float
    finished_at: str
    """ISO 8601, UTC."""
    schema: int = SCHEMA


Record = TypeVar("Record")
dumps, save = strict_json.dumps, strict_json.save


def load(kind: type[Record], path: Path) -> Record:
    """Read a record of the given kind, or raise RecordError naming the file and the field."""
    return strict_json.load(kind, path, SCHEMA)


def loads(kind: type[Record], text: str, source: str = "record") -> Record:
    """Read a record from a string; `source` names it in errors."""
    return strict_json.loads(kind, text, source, SCHEMA)
