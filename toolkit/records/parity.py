"""Accuracy and agreement per domain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from toolkit.records.schema import since

Verdict: TypeAlias = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """Comparison of `candidate` with `reference` on the same images."""

    reference: str
    candidate: str
    agreement: float
    """Fraction of images with the same top-1 class."""
    difference: float
    """Accuracy of candidate minus accuracy of reference."""
    low: float
    high: float
    """Bounds of the paired 95 % interval of the difference."""
    verdict: Verdict | None
    """Whether the difference stays above -margin; None if the pair is not judged."""


@dataclass(frozen=True)
class DomainParity:
    """Predictions of all sides for the images of a domain, in the order of `labels`."""

    domain: str
    held_out: bool
    """Whether the domain was excluded from training; otherwise the images are the validation images of a source
    domain."""
    labels: tuple[int, ...]
    predictions: dict[str, tuple[int, ...]]
    accuracy: dict[str, float]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class ParityReport:
    """Accuracy of every side per domain, and the verdict."""

    margin: float
    sides: dict[str, str]
    """sha256 of the file of each side (DENSE, SLIM, "onnx-fp32")."""
    domains: tuple[DomainParity, ...]
    verdict: Verdict
    """The worst verdict of all domains; at best "undecided" if a side could not be opened, and "fail" if a
    runtime crashed."""
    unopened: dict[str, str] = field(default_factory=dict)
    """Exported sides that this machine cannot run, with reasons."""
    crashed: tuple[str, ...] = since(2, ())
    """Unopened sides whose runtime crashed."""
    schema: int = 2
