"""Predictions of several models on the same images, per domain, and whether an exported one may ship.

Accuracy in every domain is what counts: an average over domains hides the one that broke, and small differences of
logits say little about decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from toolkit.bench import statistics
from toolkit.bench.feed import answers
from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Session
from toolkit.bench.statistics import Estimate, paired_difference_interval
from toolkit.errors import CheckFailed
from toolkit.records import Comparison, DomainParity, ParityReport, Verdict

SEVERITY: tuple[Verdict, ...] = ("pass", "undecided", "fail")
"""From best to worst."""


Predictions: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""(labels, top-1 classes) of some images, in one order."""


class Answers(NamedTuple):
    """All sides' answers on one domain's images, image by image in one order."""

    labels: Sequence[int]
    predictions: Mapping[str, Sequence[int]]
    """Name of a side to its top-1 classes."""


@dataclass(frozen=True)
class Pair:
    """Two sides to compare."""

    reference: str
    candidate: str
    judged: bool
    """True: the candidate must stay within the margin (slim to exported). False: the difference is shown (dense to
    slim)."""


def predict(session: Session, batches: Iterable[tuple[Any, Any]], identity: Identity) -> Predictions:
    """Predictions over batches of (images [batch, 3, S, S], labels [batch]), arrays or CPU tensors.

    Raises CheckFailed for logits that are not finite or not one row for each image, and when there are no images.
    """
    labels: list[int] = []
    predictions: list[int] = []
    for images, truth in batches:
        given = np.ascontiguousarray(np.asarray(images), dtype=np.float32)
        logits = answers(session, given, identity)  # [batch, classes]
        if logits.ndim != 2 or len(logits) != len(truth):
            raise CheckFailed(f"{len(truth)} images gave logits of shape {logits.shape}")
        if not np.isfinite(logits).all():
            raise CheckFailed("the model gives logits that are not finite")
        labels += [int(label) for label in truth]
        predictions += [int(label) for label in logits.argmax(axis=1)]
    if not labels:
        raise CheckFailed("there are no images to predict")
    return tuple(labels), tuple(predictions)


def side_by_side(seen: Mapping[str, Mapping[str, Predictions]]) -> dict[str, Answers]:
    """Answers by domain, from every side's predictions by domain."""
    domains = next(iter(seen.values()))
    return {
        domain: Answers(labels, {side: found[domain][1] for side, found in seen.items()})
        for domain, (labels, _) in domains.items()
    }


def compare(
    domains: Mapping[str, Answers],
    sides: Mapping[str, str],
    pairs: Sequence[Pair],
    margin: float,
    held_out: str | None,
) -> ParityReport:
    """Compare `pairs` in every domain.

    sides: every side's name and the sha256 of the file that predicted. held_out: the domain never trained on, or None.
    Raises CheckFailed where nothing, or nothing sensible, would be compared: no domain, no images, no judged pair,
    a side without predictions in some domain or with too few, a held-out domain that is missing.
    """
    _refuse_vacuous(domains, sides, pairs, held_out)
    found = tuple(
        _domain(domain, answers, sides, pairs, margin, held_out == domain) for domain, answers in domains.items()
    )
    verdicts = [made.verdict for domain in found for made in domain.comparisons if made.verdict is not None]
    return ParityReport(margin, dict(sides), found, worst(verdicts))


def verdict(difference: Estimate, margin: float) -> Verdict:
    """Pass when the interval lies above -margin, fail when the difference seen is below it, else undecided."""
    if difference.value < -margin:
        return "fail"
    return "pass" if difference.low >= -margin else "undecided"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The most severe of at least one verdict."""
    return max(verdicts, key=SEVERITY.index)


def images_needed(domain: DomainParity, comparison: Comparison, margin: float) -> int | None:
    """Images of this domain that would settle an undecided comparison, should its rates hold; None: no number would."""
    gained, lost = _discordant(
        domain.labels, domain.predictions[comparison.reference], domain.predictions[comparison.candidate]
    )
    return statistics.images_needed(gained, lost, len(domain.labels), margin)


def _domain(
    domain: str, answers: Answers, sides: Mapping[str, str], pairs: Sequence[Pair], margin: float, held_out: bool
) -> DomainParity:
    _refuse_misfit(domain, answers, sides)
    labels, predictions = tuple(answers.labels), {side: tuple(given) for side, given in answers.predictions.items()}
    accuracy = {side: _share_equal(labels, given) for side, given in predictions.items()}
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
        agreement=_share_equal(reference, candidate),
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        verdict=verdict(difference, margin) if pair.judged else None,
    )


def _discordant(labels: Sequence[int], reference: Sequence[int], candidate: Sequence[int]) -> tuple[int, int]:
    """(images only the candidate has right, images only the reference has right)"""
    rows = list(zip(labels, reference, candidate, strict=True))
    gained = sum(truth == theirs != ours for truth, ours, theirs in rows)
    lost = sum(truth == ours != theirs for truth, ours, theirs in rows)
    return gained, lost


def _share_equal(first: Sequence[int], second: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def _refuse_vacuous(
    domains: Mapping[str, Answers], sides: Mapping[str, str], pairs: Sequence[Pair], held_out: str | None
) -> None:
    if not domains:
        raise CheckFailed("parity over no domain says nothing")
    if not any(pair.judged for pair in pairs):
        raise CheckFailed("parity without a comparison to judge says nothing", "export the slim model first")
    for side in (side for pair in pairs for side in (pair.reference, pair.candidate)):
        if side not in sides:
            raise CheckFailed(f"{side} is to be compared, but there is no such side: {', '.join(sides)}")
    if held_out is not None and held_out not in domains:
        raise CheckFailed(f"the held-out domain {held_out!r} is not among those compared: {', '.join(domains)}")


def _refuse_misfit(domain: str, answers: Answers, sides: Mapping[str, str]) -> None:
    if not answers.labels:
        raise CheckFailed(f"domain {domain} has no images to compare on")
    if answers.predictions.keys() != sides.keys():
        raise CheckFailed(
            f"domain {domain} has predictions of {', '.join(answers.predictions)}; expected are {', '.join(sides)}"
        )
    for side, given in answers.predictions.items():
        if len(given) != len(answers.labels):
            raise CheckFailed(f"domain {domain}: {side} has {len(given)} predictions for {len(answers.labels)} images")
