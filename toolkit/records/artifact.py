"""Exported files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from toolkit.records.model import ModelInfo
from toolkit.records.schema import since


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an artifact; dynamic dimensions have a name instead of a number."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes that a file accepts."""

    least: int = 1
    usual: int | None = None
    """The size that it is optimised for; None: none in particular."""
    most: int | None = None
    """None: unlimited."""

    @classmethod
    def of(cls, sizes: Sequence[int]) -> BatchRange:
        """One size (fixed), or the minimum, typical and maximum size."""
        return cls(sizes[0], sizes[len(sizes) // 2], sizes[-1])

    @property
    def fixed(self) -> int | None:
        """The only size, if there is only one."""
        return self.least if self.least == self.most else None

    @property
    def text(self) -> str:
        if self.fixed:
            return f"batch size {self.fixed}"
        return "any batch size" if self.most is None else f"batch sizes {self.least} to {self.most}"


@dataclass(frozen=True)
class EngineTraits:
    """Portability of a TensorRT engine beyond the GPU and the version that built it."""

    builder_level: int
    version_compatible: bool
    """Whether later versions of TensorRT can load it."""
    hardware_compatible: bool
    """Whether it runs on all GPUs from Ampere on."""


RewriteName: TypeAlias = Literal[
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
"""An exact rewrite of a graph."""
FusionStatus: TypeAlias = Literal["fused", "partly", "not", "unknown"]


@dataclass(frozen=True)
class Fusion:
    """Fusion status of a block's attention in a file: one kernel per bucket of equal heads, or separate ones."""

    block: int
    """Index in the exported model."""
    status: FusionStatus
    kernels: tuple[str, ...]
    """Kernels that compute the attention."""
    reason: str = ""
    """Reason why it is not fused, if known."""
    hint: str = ""
    """Suggestion to get it fused; empty if the target has no fused attention."""


@dataclass(frozen=True)
class Lowered:
    """Layers kept in float32 in a lower precision, and the accuracy before and after."""

    accuracy: dict[str, float]
    """Accuracy on the sample of each source domain, in the lower precision."""
    reference: dict[str, float]
    """Accuracy of the float32 model on the same samples."""
    unquantised: tuple[int, ...] = ()
    """Blocks that are not quantised."""
    blocks: tuple[int, ...] = ()
    """Blocks that are entirely in float32."""
    norms: tuple[str, ...] = ()
    """Layer norms in float32 in other blocks."""
    softmax: tuple[str, ...] = ()
    """Attentions with the softmax in float32."""
    residual: bool = False
    """Whether the residual sum is in float32."""


@dataclass(frozen=True)
class Artifact:
    """An exported file, with everything needed to refuse a mismatch before loading it."""

    file: str
    """Path relative to the record's folder."""
    sha256: str
    target: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: ModelInfo
    """The exported model, with its classes and preprocessing."""
    built_with: dict[str, str]
    """Package versions of the builder."""
    batch: BatchRange = since(2, BatchRange())
    opset: int | None = since(2, None)
    """ONNX opset of the graph."""
    attention: str | None = since(2, None)
    """Form of attention in the graph."""
    compiled: bool = since(2, False)
    """Whether the file contains machine code from PyTorch's compiler."""
    engine: EngineTraits | None = since(2, None)
    """None: not an engine of TensorRT."""
    device_architecture: str | None = None
    """The architecture it was compiled for; None: portable."""
    max_abs_difference: float | None = None
    """Largest logit difference from the PyTorch model, measured after the export; None: not run."""
    graph_difference: float | None = since(2, None)
    """`max_abs_difference` of the graph that the file was built from, for a file that was not run."""
    extra_files: dict[str, str] = field(default_factory=dict)
    """Additional files with their sha256: external weights, the list of an engine's layers."""
    rewrites: dict[str, int] = field(default_factory=dict)
    """Exact rewrites by `RewriteName`, and how often each was applied."""
    lowered: Lowered | None = None
    """Layers kept in float32, and accuracies; None if everything is float32."""
    fusion: tuple[Fusion, ...] = ()
    """Fusion status of every block's attention; empty if unknown."""
    notes: tuple[str, ...] = ()
    """Notes for users."""
    schema: int = 2

    def facts(self) -> list[str]:
        """Descriptions of the build settings that apply to this file."""
        facts = []
        if self.opset is not None:
            facts.append(f"opset {self.opset}")
        if self.attention is not None:
            facts.append(f"{self.attention} attention")
        facts.append(self.batch.text)
        if self.compiled:
            facts.append("compiled")
        if self.engine:
            facts.append(f"builder level {self.engine.builder_level}")
            facts += ["for later versions too"] * self.engine.version_compatible
        return facts
