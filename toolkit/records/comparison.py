"""Several prunings of one model, side by side: `toolkit prune --compare`."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.records.bench import BenchReport


@dataclass(frozen=True)
class DomainValidation:
    """All models on the validation images of a source domain."""

    domain: str
    images: int
    accuracy: dict[str, float]
    """Fraction of correct predictions, by model."""
    agreement: dict[str, float]
    """Fraction of images with the dense model's prediction, by model."""
    divergence_nats: dict[str, float]
    """KL(dense || model) of the predicted distributions, a mean over images, by model."""


@dataclass(frozen=True)
class ValidationReport:
    """Models before and after pruning on the validation images of the source domains."""

    models: dict[str, str]
    """`ModelInfo.identity` by name, DENSE first."""
    domains: tuple[DomainValidation, ...]
    schema: int = 1


@dataclass(frozen=True)
class ModelCost:
    """Sizes of a model."""

    weights_sha256: str
    image_size: int
    parameters: int
    macs: int
    """Multiply-accumulates for one image."""


@dataclass(frozen=True)
class PrunedVariant:
    """One of the prunings."""

    name: str
    """Of its result in the folder `compared`, and in the other records."""
    settings: dict[str, str]
    """The compared settings of `prune`, as written on the command line."""
    model: ModelCost | None
    """None: it failed."""
    budget: str = ""
    """The requested budget."""
    achieved: float | None = None
    """As in the plan."""
    seconds: float | None = None
    """Time of the pruning; of its last part, if it was interrupted."""
    error: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class PruneComparison:
    """Prunings of one model, on the same data: sizes, predictions and latencies."""

    source: str
    """Name of the source model."""
    dense: ModelCost
    variants: tuple[PrunedVariant, ...]
    validation: ValidationReport
    held_out: str | None
    """The domain that is in none of the numbers; None: no domain is held out."""
    latency: BenchReport | None
    """Interleaved measurements of all models, by name; None: not measured."""
    file_format: str = ""
    """Target and precision of the measured files; empty: model folders, or not measured."""
    unmeasured: dict[str, str] = field(default_factory=dict)
    """Models whose latency could not be measured, with reasons."""
    schema: int = 1
