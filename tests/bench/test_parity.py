"""Parity of small literal cases, and predictions of real sessions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit import records
from toolkit.bench.parity import (
    DomainPredictions,
    Pair,
    Side,
    compare,
    compare_sides,
    images_needed,
    predict,
    verdict,
    worst,
)
from toolkit.bench.runtimes import runtime
from toolkit.bench.statistics import Estimate
from toolkit.errors import CheckFailed
from toolkit.records import ParityReport

SIDES = {"dense": "d" * 64, "slim": "5" * 64, "onnx-fp32": "0" * 64}
PAIRS = (Pair("dense", "slim", judged=False), Pair("slim", "onnx-fp32", judged=True))
LABELS = (0, 1, 2, 0, 1, 2, 0, 1, 2, 0)


def all_correct(labels: tuple[int, ...] = LABELS) -> DomainPredictions:
    return DomainPredictions(labels, dict.fromkeys(SIDES, labels))


def test_sides_are_compared_in_every_domain() -> None:
    sides = {
        "slim": Side("5", {"ink": ((0, 1), (0, 0)), "oil": ((2,), (2,))}),
        "onnx": Side("0", {"ink": ((0, 1), (1, 1)), "oil": ((2,), (0,))}),
    }
    report = compare_sides(sides, [Pair("slim", "onnx", judged=True)], margin=0.01, held_out="oil")
    assert report.sides == {"slim": "5", "onnx": "0"}
    assert [(domain.domain, domain.held_out, domain.labels) for domain in report.domains] == [
        ("ink", False, (0, 1)),
        ("oil", True, (2,)),
    ]
    assert report.domains[0].predictions == {"slim": (0, 0), "onnx": (1, 1)}


def test_one_domain_by_hand() -> None:
    dense = (0, 1, 2, 0, 1, 2, 0, 1, 2, 1)  # 9 of 10
    slim = (0, 1, 2, 0, 1, 2, 0, 0, 0, 0)  # 8 of 10: gains the last, loses two
    exported = (0, 1, 2, 0, 1, 2, 0, 0, 1, 0)  # 8 of 10: like slim, with one different mistake
    images = DomainPredictions(LABELS, {"dense": dense, "slim": slim, "onnx-fp32": exported})
    report = compare({"sketch": images}, SIDES, PAIRS, margin=0.01, held_out="sketch")
    (domain,) = report.domains
    assert domain.held_out
    assert domain.accuracy == {"dense": 0.9, "slim": 0.8, "onnx-fp32": 0.8}
    reported, judged = domain.comparisons
    assert (reported.reference, reported.candidate, reported.verdict) == ("dense", "slim", None)
    assert reported.difference == pytest.approx(-0.1)
    assert reported.agreement == pytest.approx(0.7)
    assert judged.agreement == pytest.approx(0.9)
    assert judged.difference == 0.0
    assert judged.verdict == "undecided"
    assert report.verdict == "undecided"
    assert images_needed(domain, judged, report.margin) == 194  # no image gained, none lost


def test_enough_images_without_a_difference_pass() -> None:
    report = compare({"art": all_correct(LABELS * 20)}, SIDES, PAIRS, margin=0.01, held_out=None)
    assert report.verdict == "pass"
    assert not report.domains[0].held_out
    assert report.sides == SIDES


def test_the_worst_domain_decides() -> None:
    broken = {**all_correct(LABELS * 20).predictions, "onnx-fp32": LABELS * 19 + (1, 1, 1, 1, 0, 1, 1, 0, 1, 1)}
    domains = {
        "art": all_correct(LABELS * 20),
        "photo": DomainPredictions(LABELS * 20, broken),
        "sketch": all_correct(),
    }
    report = compare(domains, SIDES, PAIRS, margin=0.01, held_out="sketch")
    assert [domain.comparisons[1].verdict for domain in report.domains] == ["pass", "fail", "undecided"]
    assert [domain.held_out for domain in report.domains] == [False, False, True]
    assert report.verdict == "fail"


def test_a_report_survives_serialisation(tmp_path: Path) -> None:
    report = compare({"art": all_correct()}, SIDES, PAIRS, margin=0.01, held_out=None)
    records.save(report, tmp_path / "parity.json")
    assert records.load(ParityReport, tmp_path / "parity.json") == report


@pytest.mark.parametrize(
    ("value", "low", "expected"),
    [
        (0.0, -0.01, "pass"),  # at the margin is within it
        (-0.005, -0.009, "pass"),
        (0.02, -0.02, "undecided"),
        (-0.01, -0.02, "undecided"),
        (-0.011, -0.02, "fail"),
    ],
)
def test_verdicts(value: float, low: float, expected: str) -> None:
    assert verdict(Estimate(value, low, value + 0.01), margin=0.01) == expected


def test_severity() -> None:
    assert worst(["pass", "undecided", "pass"]) == "undecided"
    assert worst(["undecided", "fail", "pass"]) == "fail"
    assert worst(["pass"]) == "pass"


@pytest.mark.parametrize(
    ("domains", "pairs", "held_out", "message"),
    [
        ({}, PAIRS, None, "no domain"),
        ({"art": all_correct(())}, PAIRS, None, "no images"),
        ({"art": all_correct()}, PAIRS[:1], None, "no exported model"),
        ({"art": all_correct()}, (), None, "no exported model"),
        ({"art": all_correct()}, PAIRS, "sketch", "held-out"),
        ({"art": all_correct()}, (Pair("slim", "trt-fp16", judged=True),), None, "trt-fp16"),
        (
            {"art": DomainPredictions(LABELS, {"dense": LABELS, "slim": LABELS})},
            PAIRS,
            None,
            "expected dense, slim, onnx-fp32",
        ),
        ({"art": DomainPredictions(LABELS, dict.fromkeys(SIDES, LABELS[:-1]))}, PAIRS, None, "9 predictions for 10"),
    ],
)
def test_a_vacuous_comparison_is_an_error(
    domains: dict[str, DomainPredictions], pairs: tuple[Pair, ...], held_out: str | None, message: str
) -> None:
    with pytest.raises(CheckFailed, match=message):
        compare(domains, SIDES, pairs, margin=0.01, held_out=held_out)


def test_predictions_of_torch_and_onnxruntime_agree(folders: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    batches = [(torch.randn(size, 3, 32, 32, generator=rng), torch.arange(size) % 3) for size in (8, 8, 4)]
    predictions: dict[str, tuple[int, ...]] = {}
    sides: dict[str, str] = {}
    for name, folder, side in (("torch", "slim", "slim"), ("onnxruntime", "slim-onnx", "onnx-fp32")):
        with runtime(name).open(folders / folder, threads=1) as session:
            labels, predictions[side] = predict(session, batches)
            sides[side] = session.spec.sha256
            images = np.asarray(batches[0][0])
            assert predictions[side][:8] == tuple(session.run(images).argmax(axis=1))
    assert labels == (*range(3), *range(3), 0, 1) * 2 + (0, 1, 2, 0)
    assert len(set(predictions["slim"])) > 1
    report = compare({"noise": DomainPredictions(labels, predictions)}, sides, PAIRS[1:], margin=0.01, held_out=None)
    assert report.domains[0].comparisons[0].agreement == 1.0


def test_unusable_predictions_are_errors(folders: Path) -> None:
    images = np.zeros((2, 3, 32, 32), dtype=np.float32)
    with runtime("torch").open(folders / "slim", threads=1) as session:
        with pytest.raises(CheckFailed, match="no images"):
            predict(session, [])
        with pytest.raises(CheckFailed, match="3 images have logits"):
            predict(session, [(images, (0, 1, 2))])
        with pytest.raises(CheckFailed, match="not finite"):
            predict(session, [(images * np.float32("nan"), (0, 1))])
