"""Measured latencies of chains of blocks, from which the latency of whole models is predicted."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.records.bench import Environment
from toolkit.records.model import Matching


@dataclass(frozen=True)
class BlockShape:
    """Sizes of a transformer block whose heads are equal."""

    tokens_in: int
    """Tokens of an image at the attention."""
    tokens_out: int
    """Tokens at the MLP: fewer if the block merges tokens."""
    heads: int
    qk: int
    """Width of the queries of all heads, which is that of the keys."""
    v: int
    """Width of the values of all heads."""
    mlp: int
    """Hidden units of the MLP."""


@dataclass(frozen=True)
class Probe:
    """A model with few blocks, and its latency: `count` equal blocks, then one last block, between the patch embedding
    and the classifier of the source model."""

    image_size: int
    count: int
    block: BlockShape | None
    """None if `count` is 0."""
    last: BlockShape
    sized: bool
    """Whether attention takes the sizes of tokens, as it does after tokens were merged."""
    latency_ms: tuple[float, ...] = ()
    """One sample per call; samples i of a session's probes were taken one after the other."""


@dataclass(frozen=True)
class ProbeSession:
    """Probes that were measured interleaved."""

    probes: tuple[Probe, ...]
    reasons: tuple[str, ...]
    """Reasons why the session is INVALID; empty if VALID."""


@dataclass(frozen=True)
class LatencyTable:
    """Measured probes of one source model on one device."""

    fingerprint: str
    """Hash of everything below that a latency depends on, of the settings of the export, and of library versions."""
    model: str
    """Name of the source model."""
    device: str
    runtime: str
    target: str
    """Format of the exported files."""
    precision: str
    batch_size: int
    matching: Matching | None
    """How blocks merge tokens; None if none does."""
    environment: Environment
    """The machine that took the measurements."""
    sessions: tuple[ProbeSession, ...]
    schema: int = 1
