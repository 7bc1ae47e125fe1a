"""Parity: predictions of several models on the same images, per domain, and a verdict on the exported ones.

The verdict is about accuracy in every single domain: an average over domains would hide the one that broke, and small
logit differences say little about the predicted classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from toolkit import limits
from toolkit.bench import statistics
from toolkit.bench.runtimes import Session
from toolkit.bench.runtimes.isolated import open_session
from toolkit.bench.statistics import Estimate, paired_difference_interval
from toolkit.bench.subjects import Opened
from toolkit.errors import CheckFailed
from toolkit.records import Comparison, DomainParity, ModelInfo, ParityReport, Verdict

SEVERITY: tuple[Verdict, ...] = ("pass", "undecided", "fail")
"""Verdicts from best to worst."""

Batches: TypeAlias = Iterable[tuple[Any, Any]]
"""(images [batch, 3, S, S], labels [batch]), arrays or CPU tensors."""
Predictions: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""(labels, top-1 classes), image by image."""


class Side(NamedTuple):
    """One side of a comparison."""

    sha256: str
    """Hash of the weights or exported file."""
    predictions: Mapping[str, Predictions]
    """Predictions by domain."""


class DomainPredictions(NamedTuple):
    """Predictions of all sides for one domain, image by image."""

    labels: Sequence[int]
    predictions: Mapping[str, Sequence[int]]
    """Side name to top-1 classes."""


@dataclass(frozen=True)
class Pair:
    """Two sides to compare."""

    reference: str
    candidate: str
    judged: bool
    """True: the candidate must stay within the margin (slim to exported). False: the difference is only reported (dense
    to slim)."""


def side_of(opened: Opened, batches: Callable[[ModelInfo], Iterable[tuple[str, Batches]]]) -> Side:
    """Predictions of the model in a folder. batches: function from the model's description to the name and the batches
    of each domain."""
    with open_session(opened.folder, opened.runtime, limits.cores()) as session:
        predicted = {domain: predict(session, images) for domain, images in batches(session.spec.model)}
    return Side(session.spec.sha256, predicted)


def predict(session: Session, batches: Batches) -> Predictions:
    """Predictions over batches.

    Raises CheckFailed if there are no images, or if the logits are not finite or not one row per image.
    """
    labels: list[int] = []
    predictions: list[int] = []
    for images, truth in batches:
        inputs = np.ascontiguousarray(np.asarray(images), dtype=np.float32)  # [batch, 3, S, S]
        logits = session.predict(inputs)  # [batch, classes]
        if logits.ndim != 2 or len(logits) != len(truth):
            raise CheckFailed(f"{len(truth)} images have logits of shape {logits.shape}")
        if not np.isfinite(logits).all():
            raise CheckFailed("the model outputs logits that are not finite")
        labels += [int(label) for label in truth]
        predictions += [int(label) for label in logits.argmax(axis=1)]
    if not labels:
        raise CheckFailed("there are no images to classify")
    return tuple(labels), tuple(predictions)


def compare_sides(
    sides: Mapping[str, Side], pairs: Sequence[Pair], margin: float, held_out: str | None
) -> ParityReport:
    """`compare` with the predictions of all sides on the same images."""
    domains = {
        domain: DomainPredictions(labels, {name: side.predictions[domain][1] for name, side in sides.items()})
        for domain, (labels, _) in next(iter(sides.values())).predictions.items()
    }
    return compare(domains, {name: side.sha256 for name, side in sides.items()}, pairs, margin, held_out)


def compare(
    domains: Mapping[str, DomainPredictions],
    sides: Mapping[str, str],
    pairs: Sequence[Pair],
    margin: float,
    held_out: str | None,
) -> ParityReport:
    """Compare `pairs` in every domain.

    sides: name of every side to the sha256 of its file. held_out: the domain that was never trained on, or None.
    Raises CheckFailed for a vacuous or incomplete comparison: no domain, no images, no judged pair, a side with missing
    predictions, a missing held-out domain.
    """
    _check_not_vacuous(domains, sides, pairs, held_out)
    results = tuple(
        _domain(domain, images, sides, pairs, margin, held_out == domain) for domain, images in domains.items()
    )
    verdicts = [pair.verdict for domain in results for pair in domain.comparisons if pair.verdict is not None]
    return ParityReport(margin, dict(sides), results, worst(verdicts))


def verdict(difference: Estimate, margin: float) -> Verdict:
    """Pass if the whole interval is at or above -margin, fail if the difference itself is below, else undecided."""
    if difference.value < -margin:
        return "fail"
    return "pass" if difference.low >= -margin else "undecided"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The most severe verdict; raises ValueError without any."""
    return max(verdicts, key=SEVERITY.index)


def images_needed(domain: DomainParity, comparison: Comparison, margin: float) -> int | None:
    """Number of images that would decide an undecided comparison at its current rates; None if no number would."""
    gained, lost = _discordant(
        domain.labels, domain.predictions[comparison.reference], domain.predictions[comparison.candidate]
    )
    return statistics.images_needed(gained, lost, len(domain.labels), margin)


def _domain(
    domain: str,
    images: DomainPredictions,
    sides: Mapping[str, str],
    pairs: Sequence[Pair],
    margin: float,
    held_out: bool,
) -> DomainParity:
    _check_complete(domain, images, sides)
    labels = tuple(images.labels)
    predictions = {side: tuple(classes) for side, classes in images.predictions.items()}
    accuracy = {side: _fraction_equal(labels, classes) for side, classes in predictions.items()}
    comparisons = tuple(_comparison(pair, labels, predictions, margin) for pair in pairs)
    return DomainParity(domain, held_out, labels, predictions, accuracy, comparisons)


def _comparison(
    pair: Pair, labels: Sequence[int], predictions: Mapping[str, Sequence[int]], margin: float
) -> Comparison:
    reference, candidate = predictions[pair.reference], predictions[pair.candidate]
    gained, lost = _discordant(labels, reference, candidate)
    difference = paired_difference_interval(gained, lost, len(labels))
    return Comparison(
        reference=pair.reference,
        candidate=pair.candidate,
        agreement=_fraction_equal(reference, candidate),
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        verdict=verdict(difference, margin) if pair.judged else None,
    )


def _discordant(labels: Sequence[int], reference: Sequence[int], candidate: Sequence[int]) -> tuple[int, int]:
    """(images that only the candidate classifies correctly, images that only the reference does)"""
    rows = list(zip(labels, reference, candidate, strict=True))
    gained = sum(label == new != old for label, old, new in rows)
    lost = sum(label == old != new for label, old, new in rows)
    return gained, lost


def _fraction_equal(first: Sequence[int], second: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def _check_not_vacuous(
    domains: Mapping[str, DomainPredictions], sides: Mapping[str, str], pairs: Sequence[Pair], held_out: str | None
) -> None:
    if not domains:
        raise CheckFailed("there is no domain to compare")
    if not any(pair.judged for pair in pairs):
        raise CheckFailed("there is no exported model to compare", "export the slim model first")
    for side in (side for pair in pairs for side in (pair.reference, pair.candidate)):
        if side not in sides:
            raise CheckFailed(f"unknown side {side!r}, expected one of {', '.join(sides)}")
    if held_out is not None and held_out not in domains:
        raise CheckFailed(f"the held-out domain {held_out!r} is missing, compared are {', '.join(domains)}")


def _check_complete(domain: str, images: DomainPredictions, sides: Mapping[str, str]) -> None:
    if not images.labels:
        raise CheckFailed(f"domain {domain} has no images")
    if images.predictions.keys() != sides.keys():
        raise CheckFailed(
            f"domain {domain} has predictions of {', '.join(images.predictions)}, expected {', '.join(sides)}"
        )
    for side, classes in images.predictions.items():
        if len(classes) != len(images.labels):
            count = len(images.labels)
            raise CheckFailed(f"domain {domain}: {side} has {len(classes)} predictions for {count} images")
