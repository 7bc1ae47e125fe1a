"""The table of several prunings, for a terminal and as Markdown."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from toolkit.records import (
    DomainValidation,
    ModelCost,
    PruneComparison,
    PrunedVariant,
    ValidationReport,
)
from toolkit.report.comparison import Sheet, as_markdown, sheet_of
from toolkit.report.contents import LatencyRow, Load, SpeedUp
from toolkit.report.text import comparison_table

LOAD = Load("local", "onnxruntime", 2, 8)
GROUPED, ONESHOT = "method-grouped", "method-oneshot"
ROWS = tuple(
    LatencyRow(LOAD, name, (median,), median, median, 1.0)
    for name, median in (("dense", 60.0), (GROUPED, 30.0), (ONESHOT, 40.0))
)
SPEEDUPS = (SpeedUp(LOAD, 2.0, 1.9, 2.1, GROUPED), SpeedUp(LOAD, 1.5, 1.4, 1.6, ONESHOT))


def domain(name: str, images: int, *values: tuple[float, float, float]) -> DomainValidation:
    """Accuracy, agreement and divergence of dense, grouped and oneshot."""
    found = dict(zip(("dense", GROUPED, ONESHOT), values, strict=True))
    accuracy, agreement, divergence = ({model: part[i] for model, part in found.items()} for i in range(3))
    return DomainValidation(name, images, accuracy, agreement, divergence)


COMPARISON = PruneComparison(
    source="deit_tiny_patch16_224",
    dense=ModelCost("0", 32, 2_000_000, 8_000_000),
    variants=(
        PrunedVariant(
            GROUPED, {"method": "grouped"}, ModelCost("1", 32, 1_000_000, 4_000_000), "macs=0.5", 0.5, seconds=8.2
        ),
        PrunedVariant(ONESHOT, {"method": "oneshot"}, ModelCost("2", 32, 1_500_000, 3_992_000), "macs=0.5", 0.5, 125.0),
    ),
    validation=ValidationReport(
        {"dense": "0", GROUPED: "1", ONESHOT: "2"},
        (
            domain("ink", 200, (0.9, 1.0, 0.0), (0.5, 0.6, 0.4), (0.88, 0.98, 0.0001)),
            domain("photo", 100, (0.8, 1.0, 0.0), (0.6, 0.7, 0.6), (0.8, 1.0, 0.0003)),
        ),
    ),
    held_out="sketch",
    latency=None,
    file_format="onnx-fp32",
)
FAILED = PrunedVariant("method-optin", {"method": "optin"}, None, error="macs=0.5 cannot be achieved (--round-to)")


@pytest.fixture
def sheet() -> Sheet:
    return sheet_of(COMPARISON, ROWS, SPEEDUPS)


def rendered(sheet: Sheet, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(comparison_table(sheet))
    return file.getvalue()


def cells(sheet: Sheet, row: int) -> dict[str, str]:
    return {heading: cell.replace("\u00a0", " ") for heading, cell in zip(sheet.headings, sheet.rows[row], strict=True)}


def test_the_first_row_is_the_dense_model(sheet: Sheet) -> None:
    assert cells(sheet, 0) == {
        "method": "dense",
        "MACs": "8.00 M",
        "params": "2.00 M",
        "accuracy ink": "90.0 %",
        "accuracy photo": "80.0 %",
        "accuracy, mean": "85.0 %",
        "same class as dense": "",
        "KL, nats": "",
        "time to prune": "",
        "latency, batch 8": "60.0 ms",
        "speed-up, batch 8": "",
    }


def test_a_row_has_fractions_of_the_dense_model_and_means_over_domains(sheet: Sheet) -> None:
    found = cells(sheet, 1)
    assert [found[name] for name in ("method", "MACs", "params")] == ["grouped", "50.0 %", "50.0 %"]
    assert (found["accuracy, mean"], found["same class as dense"], found["KL, nats"]) == ("55.0 %", "65.0 %", "0.500")
    assert (found["time to prune"], found["latency, batch 8"]) == ("8.2 s", "30.0 ms")
    assert found["speed-up, batch 8"] == "2.00\u00d7 [1.90, 2.10]"
    assert cells(sheet, 2)["KL, nats"] == "<0.001", "not the same model"


def test_notes_say_what_the_numbers_are_of(sheet: Sheet) -> None:
    assert sheet.title == "deit_tiny_patch16_224 pruned to macs=0.5, not fine-tuned"
    assert sheet.notes[0] == "accuracy: 300 validation images of the source domains (ink 200, photo 100)"
    assert sheet.notes[1].startswith("the held-out domain sketch is not looked at")
    assert sheet.notes[-1].startswith("latency: median per call of onnx-fp32 in onnxruntime on local, 2 threads")
    everywhere = sheet_of(replace(COMPARISON, held_out=None), ROWS, SPEEDUPS)
    assert "held-out" not in " ".join(everywhere.notes)


def test_a_failed_variant_is_a_row_that_says_why() -> None:
    sheet = sheet_of(replace(COMPARISON, variants=(FAILED, *COMPARISON.variants)), ROWS, SPEEDUPS)
    assert sheet.rows[1][:2] == ("optin", "failed")
    assert {*sheet.rows[1][2:]} == {""}
    assert [len(row) for row in sheet.rows] == [len(sheet.headings)] * 4
    assert "method=optin failed: macs=0.5 cannot be achieved (--round-to)" in sheet.notes
    assert sheet.rows[2][:2] == ("grouped", "50.0\u00a0%")


def test_an_invalid_measurement_is_marked_for_all_models_at_this_batch_size() -> None:
    busy = (ROWS[0], replace(ROWS[1], reasons=("other processes used 50% of the CPU",)), ROWS[2])
    sheet = sheet_of(COMPARISON, busy, SPEEDUPS)
    assert [cells(sheet, row)["latency, batch 8"] for row in range(3)] == [
        "60.0 ms INVALID", "30.0 ms INVALID", "40.0 ms INVALID",
    ]  # fmt: skip
    said = "INVALID measurement: batch 8, onnxruntime on local, 2 threads: other processes used 50% of the CPU"
    assert said in sheet.notes


def test_models_that_could_not_be_measured() -> None:
    partly = replace(COMPARISON, unmeasured={ONESHOT: "the target has no merges"})
    sheet = sheet_of(partly, ROWS[:2], SPEEDUPS[:1])
    assert cells(sheet, 2)["latency, batch 8"] == "not measured"
    assert "not measured: method-oneshot: the target has no merges" in sheet.notes
    without = sheet_of(COMPARISON, (), ())
    assert without.headings[-1] == "time to prune"
    assert "latency" not in " ".join(without.notes)


def test_image_sizes_are_shown_where_they_differ(sheet: Sheet) -> None:
    assert "pixels" not in sheet.headings
    smaller = replace(COMPARISON.variants[1], model=ModelCost("2", 24, 2_000_000, 4_000_000))
    differing = sheet_of(replace(COMPARISON, variants=(COMPARISON.variants[0], smaller)), ROWS, SPEEDUPS)
    assert [cells(differing, row)["pixels"] for row in range(3)] == ["32", "32", "24"]


def test_several_compared_settings_have_a_column_each() -> None:
    variants = [
        replace(variant, settings={**variant.settings, "budget": budget}, budget=budget)
        for variant, budget in zip(COMPARISON.variants, ("macs=0.5", "macs=0.6"), strict=True)
    ]
    sheet = sheet_of(replace(COMPARISON, variants=tuple(variants)), ROWS, SPEEDUPS)
    assert sheet.headings[:3] == ("method", "budget", "MACs")
    assert [row[:2] for row in sheet.rows] == [("dense", ""), ("grouped", "macs=0.5"), ("oneshot", "macs=0.6")]
    assert sheet.title == "deit_tiny_patch16_224 pruned to macs=0.5 or macs=0.6, not fine-tuned"
    lines = [line.split() for line in rendered(sheet).splitlines()]
    assert ["method", "dense", "grouped", "oneshot"] in lines
    assert ["budget", "macs=0.5", "macs=0.6"] in lines


def test_a_terminal_of_80_columns_has_a_column_for_each_model(sheet: Sheet) -> None:
    text = rendered(sheet)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.replace("\u2500", "-").isascii()
    lines = [line.split() for line in text.splitlines()]
    assert ["MACs", "8.00", "M", "50.0", "%", "49.9", "%"] in lines
    assert ["time", "to", "prune", "8.2", "s", "2", "min", "5", "s"] in lines
    assert ["speed-up,", "batch", "8", "2.00x", "[1.90,", "2.10]", "1.50x", "[1.40,", "1.60]"] in lines


def test_markdown_is_a_table_with_a_row_for_each_model(sheet: Sheet) -> None:
    lines = as_markdown(sheet).splitlines()
    assert lines[0] == r"**deit\_tiny\_patch16\_224 pruned to macs=0.5, not fine-tuned**"
    assert lines[3] == "|---|" + "---:|" * 10
    assert [line.split("|")[1].strip() for line in lines[2:7]] == ["method", "---", "dense", "grouped", "oneshot"]
    assert all(line.count("|") == 12 for line in lines[2:7])
    assert lines[8].startswith("- accuracy: 300 validation images")


def test_names_cannot_break_the_table() -> None:
    name = "a|b<b>[red]`\x1b[2J\nc"
    domains = (replace(COMPARISON.validation.domains[0], domain=name),)
    comparison = replace(COMPARISON, validation=replace(COMPARISON.validation, domains=domains))
    sheet = sheet_of(comparison, ROWS, SPEEDUPS)
    lines = as_markdown(sheet).splitlines()
    assert r"accuracy a\|b\<b\>\[red\]\`\\x1b\[2J\\nc" in lines[2]
    assert all(line.replace(r"\|", "").count("|") == 11 for line in lines[2:7])
    assert "\x1b" not in rendered(sheet)
    assert "[red]" in rendered(sheet, width=160)
