"""The picture in a terminal, with and without colours."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Literal

import pytest
from rich.color import ColorSystem
from rich.console import Console

from toolkit.characters import strip_ansi
from toolkit.records import ModelSummary
from toolkit.report.plan_picture import picture_of
from toolkit.report.plan_table import SHADES, shade, table_of

Contrast = Callable[[str, str], float]
Pair = tuple[ModelSummary, ModelSummary]


def rendered(pair: Pair, colours: Literal["truecolor"] | None = None, no_color: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=colours, no_color=no_color)
    console.print(table_of(picture_of(*pair), "a title"))
    return file.getvalue()


def lines(text: str) -> list[str]:
    """Lines without runs of spaces."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_all_numbers_are_there_without_colours(real: Pair) -> None:
    text = lines(rendered(real))
    assert text[:2] == ["a title", "block heads query/key value MLP tokens in tokens out MACs"]
    assert text[3].startswith("0 2/3 16/24 16/24 48/48 17 12 ")
    assert text[5] == "2 removed"
    assert text[6].startswith("3 3/3 24/24 24/24 12/48 9 1 ")
    assert text[7].startswith("all 8/12 61/96 64/96 108/192 ")
    assert text[8:] == [
        "residual width 22/24 in all blocks",
        "the last block computes the class token only",
        "heads of block 1, (query/key, value): 1 x (8, 8) + 1 x (7, 8) + 1 x (6, 8)",
    ]


def test_colours_change_no_text_but_have_a_scale(real: Pair) -> None:
    coloured = lines(strip_ansi(rendered(real, "truecolor")))
    assert coloured[:-1] == lines(rendered(real))
    assert coloured[-1] == "% kept, from: 0 17 33 50 67 83 100"
    assert "kept, from" not in rendered(real, "truecolor", no_color=True)


def test_the_background_of_a_cell_is_its_kept_fraction(real: Pair) -> None:
    (row,) = (line for line in rendered(real, "truecolor").splitlines() if "12/48" in line)
    quarter = shade(0.25).bgcolor
    assert quarter
    assert quarter.triplet
    tile = row[: row.index("12/48")].rpartition("\x1b[")[2]
    assert "48;2;{};{};{}m".format(*quarter.triplet) in tile


def test_shades_get_lighter_and_only_all_has_the_last(contrast: Contrast) -> None:
    lightness = [contrast(background, "#000000") for background, _ in SHADES]
    assert lightness == sorted(lightness)
    chosen = [shade(kept) for kept in (0.0, 0.16, 0.17, 0.5, 0.99, 1.0, 1.2)]
    named = [style.bgcolor and style.bgcolor.name for style in chosen]
    assert named == [SHADES[index][0] for index in (0, 0, 1, 3, 5, 6, 6)]


@pytest.mark.parametrize(("background", "foreground"), SHADES)
def test_text_is_readable_on_every_shade(contrast: Contrast, background: str, foreground: str) -> None:
    assert contrast(background, foreground) >= 4.5


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.4, 0.5, 0.7, 0.9, 1.0])
def test_text_differs_from_its_background_in_sixteen_colours(kept: float) -> None:
    style = shade(kept)
    assert style.color
    assert style.bgcolor
    assert style.color.downgrade(ColorSystem.STANDARD) != style.bgcolor.downgrade(ColorSystem.STANDARD)
