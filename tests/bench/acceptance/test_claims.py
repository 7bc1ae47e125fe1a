"""Every claim holds for the results of the fixture, and fails for worse results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from toolkit.bench.acceptance import models
from toolkit.bench.acceptance.claims import CheckClaim, KernelBandwidth, KernelSpeedUp, ModelSpeedUp, judge, load_claims
from toolkit.bench.acceptance.results import Bandwidth, CheckReport, Results
from toolkit.bench.kernels.cases import HEADWISE, cases

CLAIMS = load_claims()


def verdicts(results: Results) -> list[bool | None]:
    return [judgement.met for _, judgement in judge(results, CLAIMS)]


def test_the_claims_are_those_of_the_first_acceptance() -> None:
    limits = [(claim.case, claim.at_least) for claim in CLAIMS if isinstance(claim, KernelSpeedUp)]
    assert limits == [("dense", 1.2), ("uneven", 1.5), ("dense, 577 tokens", 0.9)]
    assert [claim.at_least for claim in CLAIMS if isinstance(claim, KernelBandwidth)] == [0.5]
    of_models = [claim for claim in CLAIMS if isinstance(claim, ModelSpeedUp)]
    assert {(claim.model, claim.mode) for claim in of_models} == {
        (name, mode) for name in models.NAMES for mode in models.MODES
    }
    assert {(claim.at_least, claim.batch_size) for claim in of_models} == {(0.9, 128)}
    assert [claim.check for claim in CLAIMS if isinstance(claim, CheckClaim)] == [
        "tests",
        "memcheck",
        "racecheck",
        "synccheck",
    ]


def test_every_claim_names_what_is_measured() -> None:
    names = {case.name for case in cases()}
    assert all(claim.case in names for claim in CLAIMS if isinstance(claim, KernelSpeedUp | KernelBandwidth))
    steps = models.steps()
    wanted = {(claim.model, claim.mode, claim.batch_size) for claim in CLAIMS if isinstance(claim, ModelSpeedUp)}
    assert wanted == set(steps[: len(wanted)]), "what has a claim is measured first"


def test_all_claims_are_met(results: Results) -> None:
    assert verdicts(results) == [True, True, None, None, *[True] * 10]
    measured = [judgement.measured for _, judgement in judge(results, CLAIMS)]
    assert measured[4] == "1.22 [1.22, 1.22], flash"
    assert measured[-1] == "0.91 (1.82x faster, 2.00x fewer MACs)"


def slower(results: Results, index: int, microseconds: float) -> Results:
    """The results with a slower headwise kernel in one case."""
    kernels = list(results.kernels)
    latency_ms = {**kernels[index].latency_ms, HEADWISE: (microseconds / 1e3,) * 30}
    kernels[index] = replace(kernels[index], latency_ms=latency_ms)
    return replace(results, kernels=tuple(kernels))


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        (lambda results: replace(results, checks=(CheckReport("tests", False, "1 failed"),)), {0}),
        (lambda results: slower(results, 0, 51.0), {4}),
        (lambda results: slower(results, 1, 21.0), {5}),
        (lambda results: slower(results, 2, 202.0), {6}),
        (lambda results: replace(results, bandwidth=Bandwidth(7e12, 4e12)), {7}),
        (
            lambda results: replace(
                results, models=(*results.models[1:], replace(results.models[0], bench=None, failure="out of memory"))
            ),
            {8},
        ),
        (
            lambda results: replace(
                results, kernels=(replace(results.kernels[0], backend="sdpa"), *results.kernels[1:])
            ),
            {4, 7},
        ),
        (
            lambda results: replace(
                results, kernels=(replace(results.kernels[0], failures={HEADWISE: "no"}), *results.kernels[1:])
            ),
            {4, 7},
        ),
    ],
    ids=range(8),
)
def test_a_worse_result_fails_its_claims(
    change: Callable[[Results], Results], failed: set[int], results: Results
) -> None:
    assert {index for index, met in enumerate(verdicts(change(results))) if met is False} == failed


def test_a_slower_model_fails_its_claim(results: Results) -> None:
    report = results.models[0]
    assert report.bench is not None
    dense, slim = report.bench.measurements
    bench = replace(report.bench, measurements=(dense, replace(slim, latency_ms=(5.6,) * 30)))
    assert verdicts(replace(results, models=(replace(report, bench=bench), *results.models[1:])))[8] is False


def test_an_unmeasured_claim_is_not_met(results: Results) -> None:
    assert verdicts(Results(results.environment)) == [None] * len(CLAIMS)
