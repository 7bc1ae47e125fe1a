"""The picture of a plan for a terminal: a table that colours show at a glance, and that reads without them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.style import Style
from rich.text import Text

from toolkit.records import HeadLayout
from toolkit.report.plan_picture import Cell, Picture, Row
from toolkit.report.text import plain
from toolkit.terminal import Table, literal

SHADES = (
    ("#08306b", "#ffffff"),
    ("#08519c", "#ffffff"),
    ("#2171b5", "#ffffff"),
    ("#4292c6", "#000000"),
    ("#6baed6", "#000000"),
    ("#9ecae1", "#000000"),
    ("#c6dbef", "#000000"),
)
"""Background and text colour, from nothing kept to all: ColorBrewer's Blues, which differ in lightness."""


def table_of(picture: Picture, title: str) -> RenderableType:
    """The picture as a table, with its notes and, on a terminal with colours, their scale."""
    table = Table("block", *picture.columns, title=title)
    table.title_justify = "left"
    table.padding = (0, 0, 0, 0)
    widths = _widths(picture)
    for column, name, width in zip(table.columns[1:], picture.columns, widths, strict=True):
        column.header = _padded(name, width)
        column.no_wrap = True
    for row in picture.rows:
        table.add_row(*_cells(row, widths), end_section=row is picture.rows[-2])
    return Group(table, *map(literal, (*picture.notes, *_uneven(picture))), _Scale())


def heads(layout: HeadLayout) -> str:
    """ "2 x (64, 64) + 1 x (32, 48)": number of heads x (query/key width, value width)."""
    return " + ".join(f"{count} x ({qk}, {v})" for count, qk, v in layout.buckets)


def shade(kept: float) -> Style:
    """Colours of a cell; the last ones are for all of it."""
    steps = len(SHADES) - 1
    background, foreground = SHADES[min(max(int(kept * steps), 0), steps)]
    return Style(color=foreground, bgcolor=background)


def _cells(row: Row, widths: list[int]) -> list[RenderableType]:
    name = "all" if row.block is None else str(row.block)
    if not row.cells:
        return [name, "removed"]
    tiles = zip(row.cells, widths, strict=True)
    return [name, *(_padded(_text(cell), width, shade(cell.kept)) if cell else "" for cell, width in tiles)]


def _uneven(picture: Picture) -> list[str]:
    """The heads of blocks in which they differ in width, which the total widths do not tell."""
    uneven = ((row.block, row.layout) for row in picture.rows if row.layout and len(row.layout.buckets) > 1)
    return [f"heads of block {block}, (query/key, value): {heads(layout)}" for block, layout in uneven]


def _widths(picture: Picture) -> list[int]:
    """Characters of each column: its name, or its cells with a space behind."""
    columns = zip(*(row.cells for row in picture.rows if row.cells), strict=True)
    return [
        max(len(name), *(len(_text(cell)) + 1 for cell in cells))
        for name, cells in zip(picture.columns, columns, strict=True)
    ]


def _padded(text: str, width: int, style: Style | str = "") -> Text:
    """Text on the right of a cell, of which all has the style."""
    return Text(f"{text} ".rjust(width) if len(text) < width else text, style)


def _text(cell: Cell | None) -> str:
    return plain(cell.text) if cell else ""


class _Scale:
    """What the colours mean; nothing where there are none."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if console.color_system is None or console.no_color:
            return
        steps = len(SHADES) - 1
        tiles = [(f" {100 * step / steps:.0f} ", shade(step / steps)) for step in range(steps + 1)]
        yield Text.assemble("% kept, from: ", *tiles)
