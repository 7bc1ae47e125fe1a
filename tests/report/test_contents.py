from __future__ import annotations

from dataclasses import replace

import pytest

from toolkit.errors import CheckFailed, InvalidMeasurement
from toolkit.report.contents import LatencyRow, Load, Page


def test_a_latency_without_samples_is_refused() -> None:
    with pytest.raises(InvalidMeasurement, match="slim at batch 8 in onnxruntime has no latency sample"):
        LatencyRow(Load("local", "onnxruntime", 2, 8), "slim", (), 1.0, 1.0, 1.0)


def test_an_empty_parity_report_is_refused(page: Page) -> None:
    assert page.parity
    with pytest.raises(CheckFailed, match="compares no domain"):
        replace(page, parity=replace(page.parity, domains=()))
    empty = replace(page.parity.domains[0], labels=())
    with pytest.raises(CheckFailed, match="no image of domain 'photo'"):
        replace(page, parity=replace(page.parity, domains=(empty,)))


def test_loads_are_distinct_and_sorted_by_batch_size(page: Page) -> None:
    shuffled = replace(page, latency=page.latency[::-1])
    assert [load.batch_size for load in shuffled.loads] == [1, 8]


def test_latencies_and_speedups_are_looked_up_by_load(page: Page) -> None:
    load = page.loads[1]
    row, speedup = page.latency_of("slim", load), page.speedup_at(load)
    assert row
    assert row.median_ms == 31.6
    assert speedup
    assert speedup.ratio == 1.9
    assert page.latency_of("exported", load) is None
    assert page.speedup_at(replace(load, batch_size=64)) is None


def test_reasons_are_distinct(page: Page) -> None:
    rows = tuple(replace(row, reasons=("busy",)) if row.load.batch_size == 8 else row for row in page.latency)
    invalid = replace(page, latency=rows)
    assert invalid.reasons_at(invalid.loads[1]) == ("busy",)
    assert invalid.reasons_at(invalid.loads[0]) == ()
