"""The numbers of a picture, against summaries written by hand and a real model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from toolkit.records import ModelSummary
from toolkit.report.plan_picture import Cell, Picture, Row, picture_of

Pair = tuple[ModelSummary, ModelSummary]


def texts(picture: Picture) -> list[list[str]]:
    """Rows of text, with ASCII spaces."""
    return [[cell.text.replace("\u00a0", " ") if cell else "" for cell in row.cells] for row in picture.rows]


def test_kept_numbers_and_fractions(dense: ModelSummary, slim: ModelSummary) -> None:
    picture = picture_of(dense, slim)
    assert picture.columns == ("heads", "query/key", "value", "MLP", "tokens", "MACs")
    assert [row.block for row in picture.rows] == [0, 1, None]
    kept, _, whole = picture.rows
    assert kept.layout == slim.blocks[0].layout
    assert kept.cells[:4] == (
        Cell(2 / 3, "2/3"),
        Cell(0.5, "96/192"),
        Cell(112 / 192, "112/192"),
        Cell(392 / 768, "392/768"),
    )
    assert whole.cells[:5] == (
        Cell(2 / 6, "2/6"),
        Cell(0.25, "96/384"),
        Cell(112 / 384, "112/384"),
        Cell(392 / 1536, "392/1536"),
        None,
    )
    assert texts(picture)[0][4:] == ["101", "50.0 %"]
    assert texts(picture)[2][5] == "50.0 %"


def test_a_removed_block_has_no_cells(dense: ModelSummary, slim: ModelSummary) -> None:
    assert picture_of(dense, slim).rows[1] == Row(1, ())


def test_the_residual_width_is_noted_once_and_only_if_it_was_cut(dense: ModelSummary, slim: ModelSummary) -> None:
    assert picture_of(dense, slim).notes == ("residual width 152/192 in all blocks",)
    assert picture_of(dense, replace(slim, embed_width=192)).notes == ()


def test_tokens_before_and_after_a_merge(dense: ModelSummary) -> None:
    first, last = dense.blocks
    blocks = (replace(first, tokens_out=61), replace(last, tokens_in=61, tokens_out=61))
    picture = picture_of(dense, replace(dense, blocks=blocks))
    assert picture.columns[4:6] == ("tokens in", "tokens out")
    assert [row[4:6] for row in texts(picture)] == [["101", "61"], ["61", "61"], ["", ""]]
    assert [cell and cell.kept for cell in picture.rows[0].cells[4:6]] == [1, 61 / 101]
    assert picture.notes == ()


@pytest.mark.parametrize(
    ("count", "note"), [(1, "the class token only"), (2, "only the 2 tokens that the classifier reads")]
)
def test_a_trimmed_last_block_is_noted(dense: ModelSummary, count: int, note: str) -> None:
    first, last = dense.blocks
    slim = replace(dense, blocks=(first, replace(last, tokens_out=count)), trim_last_block=True)
    assert picture_of(dense, slim).notes == (f"the last block computes {note}",)


def test_a_real_model(real: Pair) -> None:
    dense, slim = real
    picture = picture_of(dense, slim)
    assert [row[:6] for row in texts(picture)] == [
        ["2/3", "16/24", "16/24", "48/48", "17", "12"],
        ["3/3", "21/24", "24/24", "48/48", "12", "9"],
        [],
        ["3/3", "24/24", "24/24", "12/48", "9", "1"],
        ["8/12", "61/96", "64/96", "108/192", "", ""],
    ]
    macs = [row.cells[6].kept for row in picture.rows if row.cells and row.cells[6]]
    expected = [now.macs / dense.blocks[now.block].macs for now in slim.blocks]
    assert macs == [*expected, slim.macs / dense.macs]
    assert picture.notes == ("residual width 22/24 in all blocks", "the last block computes the class token only")
