"""The page shows claims, layers and models; errors stay in their cells."""

from __future__ import annotations

from dataclasses import replace

from toolkit.bench.acceptance.claims import load_claims
from toolkit.bench.acceptance.page import render
from toolkit.bench.acceptance.results import Results


def test_the_page_of_complete_results(results: Results) -> None:
    page = render(results, load_claims())
    lines = page.splitlines()
    assert lines[0] == "# NVIDIA H100"
    assert lines[2] == "driver 580, python 3.12, torch 2.10, toolkit 0"
    assert "- kernels: SM clock 1980 to 1980 MHz, up to 60 degrees C" in lines
    assert "Memory bandwidth: 4.80 TB/s theoretical, 4.30 TB/s in a copy." in lines
    assert (
        "| 12 dense heads, 197 tokens, batch 128: speed-up over PyTorch's fastest SDPA backend | at least 1.2 "
        "| 1.22 [1.22, 1.22], flash | met |" in lines
    )
    assert "| dense | 12 | 197 | 128 | bfloat16 | 50.0 | - | 61.0 | 122.0 | - | - | 65% |" in lines
    assert "- math, dense: `RuntimeError: a|b`" in lines
    assert "| vit_base_patch16_224 | 128 | graph | 10.00 | 5.50 | 1.82 | 2.00 |" in lines
    assert "\n\n\n" not in page


def test_tables_have_one_number_of_columns(results: Results) -> None:
    failing = replace(
        results, models=(replace(results.models[0], bench=None, failure="CompilationError: a|b"), *results.models[1:])
    )
    page = render(failing, load_claims())
    assert "CompilationError: a\\|b | **not met** |" in page
    for table in page.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") - line.count(r"\|") for line in rows}) <= 1, table


def test_a_page_without_results(results: Results) -> None:
    page = render(Results(results.environment), load_claims())
    assert page.count("| not run | not run |") == len(load_claims())
