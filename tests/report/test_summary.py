from __future__ import annotations

from dataclasses import replace

import pytest

from toolkit.records import ParityReport, Verdict
from toolkit.report import summary
from toolkit.report.contents import Page


def plain(text: str) -> str:
    replaced = {"\u00a0": " ", "\u2212": "-", "\u00d7": "x", "\u2192": "->"}
    return "".join(replaced.get(one, one) for one in text)


def with_speedup(page: Page, ratio: float, low: float, high: float) -> Page:
    return replace(page, speedups=(replace(page.speedups[1], ratio=ratio, low=low, high=high),))


def invalid(page: Page, *batch_sizes: int) -> Page:
    """The page with INVALID measurements at these batch sizes."""
    reasons = ("load average 3.2",)
    rows = (replace(row, reasons=reasons) if row.load.batch_size in batch_sizes else row for row in page.latency)
    return replace(page, latency=tuple(rows))


def test_headline(page: Page) -> None:
    assert plain(summary.headline(page)) == (
        "1.90x faster [1.85, 1.95] at batch 8, 50.0 % of the MACs, sketch accuracy 71.0 % -> 70.2 %"
    )


def test_headline_makes_no_claims_about_stages_that_have_not_run(bare: Page) -> None:
    assert summary.headline(bare) == "Speed not measured, nothing pruned yet, accuracy not compared"


def test_headline_claims_the_largest_batch_with_a_valid_measurement(page: Page) -> None:
    assert plain(summary.headline(invalid(page, 8))).startswith("1.82x faster [1.78, 1.86] at batch 1, ")
    assert plain(summary.headline(invalid(page, 1))).startswith("1.90x faster [1.85, 1.95] at batch 8, ")


def test_headline_claims_no_speed_if_every_measurement_is_invalid(page: Page) -> None:
    text = plain(summary.headline(invalid(page, 1, 8)))
    assert text.startswith("Speed unknown: every measurement is INVALID, ")
    assert "faster" not in text


def test_headline_claims_no_gain_without_significance(page: Page) -> None:
    unclear = plain(summary.headline(with_speedup(page, 1.02, 0.98, 1.06)))
    slower = plain(summary.headline(with_speedup(page, 0.8, 0.75, 0.85)))
    assert unclear.startswith("Not measurably faster, 1.02x [0.98, 1.06] at batch 8")
    assert slower.startswith("Slower, 0.80x the dense model's speed [0.75, 0.85] at batch 8")


def test_headline_names_the_domain_with_the_largest_loss_without_a_held_out_domain(
    page: Page, parity: ParityReport
) -> None:
    sources = tuple(replace(domain, held_out=False) for domain in parity.domains)
    text = plain(summary.headline(replace(page, parity=replace(parity, domains=sources))))
    assert text.endswith("cartoon accuracy 93.0 % -> 91.5 %")


@pytest.mark.parametrize("verdict", ["pass", "fail", "undecided"])
def test_judgement_is_the_parity_verdict(page: Page, parity: ParityReport, verdict: Verdict) -> None:
    judgement = summary.judgement(replace(page, parity=replace(parity, verdict=verdict)))
    assert judgement.kind == verdict
    assert "than 1 pp" in plain(judgement.text)


@pytest.mark.parametrize(
    ("compared", "crashed", "verdict", "message"),
    [
        ("pass", (), "undecided", "the accuracy of openvino-fp32, rtx-fp32 is unknown."),
        ("pass", ("openvino-fp32",), "fail", "a runtime crashed on openvino-fp32."),
        ("undecided", ("openvino-fp32",), "fail", "a runtime crashed on openvino-fp32."),
    ],
)
def test_judgement_of_a_file_that_does_not_run(
    page: Page, parity: ParityReport, compared: Verdict, crashed: tuple[str, ...], verdict: Verdict, message: str
) -> None:
    domains = tuple(
        replace(domain, comparisons=tuple(replace(pair, verdict=compared) for pair in domain.comparisons))
        for domain in parity.domains
    )
    unopened = {"openvino-fp32": "why", "rtx-fp32": "no GPU"}
    partial = replace(parity, domains=domains, verdict=verdict, unopened=unopened, crashed=crashed)
    judgement = summary.judgement(replace(page, parity=partial))
    assert judgement.kind == verdict
    assert message in plain(judgement.text)


def test_judgement_without_parity(bare: Page) -> None:
    assert summary.judgement(bare).kind == "not run"


def test_rows_of_a_finished_run(page: Page) -> None:
    rows = {
        row.name: [plain(cell) for cell in (row.before, row.after, row.change, row.interval)]
        for row in summary.rows(page)
    }
    assert rows == {
        "Parameters": ["5.53 M", "2.70 M", "-51.1 %", ""],
        "MACs": ["1.25 G", "625 M", "-50.0 %", ""],
        "Memory traffic": ["30.0 MB", "16.0 MB", "-46.7 %", ""],
        "Model file": ["22.1 MB", "10.8 MB", "-51.1 %", ""],
        "Latency, batch 1": ["8.00 ms", "4.40 ms", "-45.0 %", ""],
        "Speed-up, batch 1": ["", "1.82x", "", "[1.78, 1.86]"],
        "Latency, batch 8": ["60.0 ms", "31.6 ms", "-47.3 %", ""],
        "Speed-up, batch 8": ["", "1.90x", "", "[1.85, 1.95]"],
        "Accuracy, photo": ["98.5 %", "98.0 %", "-0.5 pp", "[-2.5, +1.5] pp"],
        "Accuracy, cartoon": ["93.0 %", "91.5 %", "-1.5 pp", "[-3.5, +0.5] pp"],
        "Accuracy, sketch": ["71.0 %", "70.2 %", "-0.8 pp", "[-2.8, +1.2] pp"],
        "Agreement, onnx-fp32 with slim": ["", "100.0 %", "", ""],
    }


def test_rows_of_stages_that_have_not_run(bare: Page) -> None:
    rows = {row.name: row.after for row in summary.rows(bare)}
    assert set(rows.values()) == {"not run"}
    assert {"Parameters", "Latency", "Speed-up", "Accuracy per domain", "Agreement, exported with slim"} <= rows.keys()


def test_a_missing_side_is_shown_as_not_run(page: Page, parity: ParityReport) -> None:
    alone = tuple(replace(domain, accuracy={"dense": 0.9}, comparisons=()) for domain in parity.domains)
    only_dense = replace(page, parity=replace(parity, domains=alone), latency=page.latency[::2], speedups=())
    rows = {row.name: row.after for row in summary.rows(only_dense)}
    assert rows["Accuracy, photo"] == rows["Latency, batch 8"] == rows["Speed-up, batch 8"] == "not run"
    assert rows["Agreement, onnx-fp32 with slim"] == "not run"


def test_flags_mark_invalid_measurements_and_held_out_domains(page: Page) -> None:
    flags = {row.name: row.flag for row in summary.rows(invalid(page, 1, 8)) if row.flag}
    assert flags == {
        "Latency, batch 1": "INVALID",
        "Speed-up, batch 1": "INVALID",
        "Latency, batch 8": "INVALID",
        "Speed-up, batch 8": "INVALID",
        "Accuracy, sketch": "never trained on",
    }


def test_agreement_is_averaged_over_images_not_domains(page: Page, parity: ParityReport) -> None:
    first, *others = parity.domains
    worse = replace(first, labels=(0,) * 600, comparisons=(replace(first.comparisons[1], agreement=0.9),))
    rows = {row.name: row for row in summary.rows(replace(page, parity=replace(parity, domains=(worse, *others))))}
    row = rows["Agreement, onnx-fp32 with slim"]
    assert plain(row.after) == "94.0 %"  # (600 * 0.9 + 200 + 200) / 1000
    assert row.note == "same top-1 class, 1000 images"


def test_rows_name_the_runtime_if_there_are_several(page: Page) -> None:
    rows = (*page.latency, replace(page.latency[0], load=replace(page.loads[0], runtime="torch", threads=1)))
    names = [row.name for row in summary.rows(replace(page, latency=rows))]
    assert "Latency, batch 1, torch on local, 1 thread" in names
    assert "Latency, batch 1, onnxruntime on local, 2 threads" in names


def test_invalid_measurements_name_load_and_reason(page: Page) -> None:
    assert summary.invalid_measurements(page) == ()
    assert summary.invalid_measurements(invalid(page, 1, 8)) == (
        "batch 1, onnxruntime on local, 2 threads: load average 3.2",
        "batch 8, onnxruntime on local, 2 threads: load average 3.2",
    )
