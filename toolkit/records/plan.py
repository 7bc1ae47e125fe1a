"""Plans: which units to remove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from toolkit.records.model import Merge
from toolkit.records.schema import since

Axis: TypeAlias = Literal["block", "head", "qk", "v", "mlp", "embed"]
"""Removable units: blocks, heads, query/key units and value units of heads, hidden units of MLPs, residual channels."""
Aggregate: TypeAlias = Literal["mean", "worst"]
"""Which error over the source domains is minimised: their mean, or the largest."""


@dataclass(frozen=True)
class Cut:
    """Units removed along one axis at one place, by their index before the cut.

    Places: "residual" for embed, "blocks" for block, else a module's name ("blocks.3.attn", "blocks.3.mlp").
    Units of qk and v are numbered across all heads of a layer, in memory order.
    """

    place: str
    axis: Axis
    units: tuple[int, ...]


@dataclass(frozen=True)
class LatencyRecord:
    """A search under a latency budget: its prediction, and the measurement of the whole exported model."""

    asked_ms: float
    """The budget in milliseconds."""
    predicted_ms: float
    """From the cost table that the last search used."""
    measured_ms: float
    """Median of the exported slim model."""
    dense_ms: float
    """Median of the exported dense model, measured interleaved with the slim one."""
    device: str
    runtime: str
    precision: str
    batch_size: int
    searches: int
    """Number of searches, each with a table that the measurements before it corrected."""
    reasons: tuple[str, ...] = ()
    """Reasons why the measurement is INVALID; empty if VALID."""


@dataclass(frozen=True)
class PrunePlan:
    """Units to remove from the model with this hash, and how they were selected."""

    model_sha256: str
    method: str
    criterion: str
    scope: str
    budget: str
    """The requested budget: "ratio=0.5", "macs=0.5", "params=0.3", "latency=0.5", "latency=4ms"."""
    achieved: float
    """Fraction of MACs, parameters or measured latency that remains, or of units removed (except for those inside
    removed heads and blocks)."""
    seed: int
    cuts: tuple[Cut, ...]
    merges: tuple[Merge, ...] = since(2, ())
    """Tokens to merge, by block."""
    basis: str = since(2, "none")
    """Basis of the model with this hash: the dense model's own, or one that it was rotated to."""
    compensation: str = since(2, "none")
    """Compensation after the removal."""
    trim_last_block: bool = since(3, False)
    """Whether the last block computes only the tokens that the classifier reads, which changes no logit."""
    latency: LatencyRecord | None = since(3, None)
    """Prediction and measurement, if the budget is a latency."""
    schema: int = 3
