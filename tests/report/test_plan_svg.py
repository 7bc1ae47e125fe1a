"""The picture as SVG."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from toolkit.records import ModelSummary
from toolkit.report.plan_picture import Picture, picture_of
from toolkit.report.plan_svg import drawing_of

Pair = tuple[ModelSummary, ModelSummary]


@pytest.fixture(scope="module")
def picture(real: Pair) -> Picture:
    return picture_of(*real)


@pytest.fixture(scope="module")
def root(picture: Picture) -> ElementTree.Element:
    return ElementTree.fromstring(drawing_of(picture))


def opacity(root: ElementTree.Element, cell: str) -> float:
    """Of the colour of a cell: 1 if the file does not say it."""
    (group,) = (element for element in root.iter("g") if element.get("id") == f"plan-{cell}")
    style = next(group.iter("path")).get("style", "")
    assert "fill: var(--kept)" in style
    found = re.search(r"opacity: ([\d.]+)", style)
    return float(found[1]) if found else 1.0


def test_every_cell_has_its_number_and_its_colour(root: ElementTree.Element, picture: Picture) -> None:
    texts = [element.text for element in root.iter("text")]
    for row in picture.rows:
        for column, cell in enumerate(row.cells):
            if cell:
                assert cell.text in texts
                name = f"cell-{'all' if row.block is None else row.block}-{column}"
                assert opacity(root, name) == pytest.approx(cell.kept, abs=1e-5)


def test_rows_columns_and_notes_are_named(root: ElementTree.Element, picture: Picture) -> None:
    texts = [element.text for element in root.iter("text")]
    assert texts.count("removed") == 1
    assert {*picture.columns, *picture.notes, "block", "all", "% kept"} <= set(texts)


def test_it_is_described_in_words(root: ElementTree.Element) -> None:
    label = "What pruning left of 4 blocks, 1 of them removed, by heads, query/key, value, MLP, tokens in, tokens out"
    assert root.get("aria-label") == f"{label} and MACs."
    (description,) = (each for each in root.iter("desc") if each.get("id") == root.get("aria-describedby"))
    assert description.text
    assert description.text.startswith("Block 0: heads 2/3, query/key 16/24, value 16/24, MLP 48/48, tokens in 17, ")
    assert "; Block 2: removed; " in description.text
    assert description.text.endswith("; the last block computes the class token only.")


def test_it_is_themed_and_deterministic(picture: Picture) -> None:
    drawing = drawing_of(picture)
    assert drawing == drawing_of(picture)
    assert not re.search(r"#[123]0000\d", drawing), "a placeholder colour is left"
    assert "<style" not in drawing
    names = re.findall(r' id="([^"]+)"', drawing)
    assert len(names) == len(set(names))
