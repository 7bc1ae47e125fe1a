from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from toolkit.records import ParityReport
from toolkit.report.contents import Page
from toolkit.report.text import summary_table


def rendered(page: Page, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(summary_table(page))
    return file.getvalue()


def test_the_table_fits_a_terminal_and_shows_the_result(page: Page) -> None:
    text = rendered(page)
    assert max(len(line) for line in text.splitlines()) <= 80
    lines = [line.split() for line in text.splitlines()]
    assert ["Latency,", "batch", "8", "60.0", "ms", "31.6", "ms", "-47.3", "%"] in lines
    assert ["Speed-up,", "batch", "8", "1.90x", "[1.85,", "1.95]"] in lines
    assert "export parity: PASS." in text
    assert "latency: median per call, onnxruntime on local, 2 threads" in text


def test_each_claim_of_the_headline_is_a_line_of_the_title(page: Page) -> None:
    assert [line.strip() for line in rendered(page).splitlines()[:3]] == [
        "1.90x faster [1.85, 1.95] at batch 8",
        "50.0 % of the MACs",
        "sketch accuracy 71.0 % -> 70.2 %",
    ]


def test_the_text_is_ascii(page: Page) -> None:
    assert rendered(page).replace("\u2500", "-").isascii()


def test_names_are_escaped(page: Page, parity: ParityReport) -> None:
    domains = (replace(parity.domains[0], domain="[red]x[/red]\x1b[2J"),)
    text = rendered(replace(page, parity=replace(parity, domains=domains)), width=120)
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_an_invalid_measurement_is_marked(page: Page) -> None:
    rows = tuple(replace(row, reasons=("busy",)) for row in page.latency)
    text = rendered(replace(page, latency=rows), width=120)
    assert "INVALID measurement: batch 8, onnxruntime on local, 2 threads: busy" in text
    assert "Latency, batch 8 (INVALID)" in text


def test_stages_that_have_not_run_are_listed(bare: Page) -> None:
    text = rendered(bare)
    assert text.count("not run") >= 7
    assert "export parity: NOT RUN." in text
