from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib
import pytest

from toolkit.records import ParityReport
from toolkit.report import plots
from toolkit.report.contents import Page


def ids(drawing: str, pattern: str) -> list[str]:
    names = (element.get("id", "") for element in ElementTree.fromstring(drawing).iter())
    return [name for name in names if re.fullmatch(pattern, name)]


def texts(drawing: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawing).iter("text")]


def bar_length(drawing: str, name: str) -> float:
    """Horizontal extent of a bar."""
    group = next(element for element in ElementTree.fromstring(drawing).iter() if element.get("id") == name)
    path = next(group.iter("path")).get("d", "")
    xs = [float(x) for x in re.findall(r"[ML] (\S+) \S+", path)]
    return max(xs) - min(xs)


def test_accuracy_has_a_bar_per_domain_and_side(parity: ParityReport) -> None:
    drawing = plots.accuracy(parity)
    bars = ids(drawing, r"accuracy-bar-\d-\d")
    assert sorted(bars) == [f"accuracy-bar-{domain}-{side}" for domain in range(3) for side in range(3)]
    ratio = bar_length(drawing, "accuracy-bar-2-0") / bar_length(drawing, "accuracy-bar-0-0")
    assert ratio == pytest.approx(0.71 / 0.985, rel=1e-3)


def test_accuracy_marks_the_domain_never_trained_on(parity: ParityReport) -> None:
    assert texts(plots.accuracy(parity)).count("never trained on") == 1
    sources = tuple(replace(domain, held_out=False) for domain in parity.domains)
    assert "never trained on" not in plots.accuracy(replace(parity, domains=sources))


def test_a_side_without_accuracy_has_no_bar(parity: ParityReport) -> None:
    first = replace(parity.domains[0], accuracy={"slim": 0.5})
    drawing = plots.accuracy(replace(parity, domains=(first,)))
    assert ids(drawing, r"accuracy-bar-\d-\d") == ["accuracy-bar-0-1"]


@pytest.mark.parametrize("name", ["$x_1$ and $", "<b>x</b>", "a&b", "b\x07ll", "\udcff", "x" * 200])
def test_any_folder_name_can_be_drawn(parity: ParityReport, name: str) -> None:
    drawing = plots.accuracy(replace(parity, domains=(replace(parity.domains[0], domain=name),)))
    label = next(text for text in texts(drawing) if text.startswith((name[0], "\\")))
    assert len(label) <= plots.LONGEST_NAME


def test_latency_draws_every_sample(page: Page) -> None:
    drawing = plots.latency(page.latency)
    groups = ids(drawing, r"latency-samples-\d-\d")
    assert sorted(groups) == [f"latency-samples-{panel}-{subject}" for panel in (0, 1) for subject in (0, 1)]
    for group in ElementTree.fromstring(drawing).iter("g"):
        if group.get("id") in groups:
            dots = re.findall(r"M (\S+) (\S+)\s+L (\S+) (\S+)", next(group.iter("path")).get("d", ""))
            assert len(dots) == 3
            assert all((x, y) == (end_x, end_y) for x, y, end_x, end_y in dots)
            heights = [float(y) for _, y, _, _ in dots]
            assert all(earlier < later for earlier, later in pairwise(heights))  # y points down in SVG


def test_latency_marks_invalid_measurements(page: Page) -> None:
    rows = [replace(row, reasons=("busy",)) if row.load.batch_size == 8 else row for row in page.latency]
    titles = [text for text in texts(plots.latency(rows)) if text.startswith("batch")]
    assert [title.endswith("INVALID") for title in titles] == [False, True]


def test_drawings_are_themed_accessible_and_deterministic(page: Page) -> None:
    assert page.parity
    drawings = [plots.accuracy(page.parity), plots.latency(page.latency)]
    assert drawings == [plots.accuracy(page.parity), plots.latency(page.latency)]
    for drawing in drawings:
        assert not re.search(r"#[12]0000\d", drawing), "a placeholder colour is left"
        assert "var(--series-1)" in drawing
        assert "var(--series-2)" in drawing
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img"
        assert len(root.get("aria-label", "")) > 40
    names = [name for drawing in drawings for name in ids(drawing, r".+")]
    assert len(names) == len(set(names))


def test_references_inside_a_drawing_resolve(page: Page) -> None:
    drawing = plots.latency(page.latency)
    targets = re.findall(r'(?:url\(|href=")#([^")]+)', drawing)
    assert targets
    assert set(targets) <= set(ids(drawing, r".+"))


def test_drawing_does_not_change_matplotlib_settings(parity: ParityReport, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plots.accuracy(parity)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 23.0)
    assert plots.accuracy(parity) == expected, "the report depends on the user's settings"
    assert matplotlib.rcParams["font.size"] == 23.0
