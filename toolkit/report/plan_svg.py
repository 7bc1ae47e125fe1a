"""The picture of a plan as an inline SVG for the page."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from toolkit.report import svg
from toolkit.report.plan_picture import Cell, Picture, Row

WIDTH_INCHES = 9.5
ROW_INCHES = 0.27
GAP = 0.25
"""Rows between the blocks and the whole model."""
SCALE_STEPS = 5


def drawing_of(picture: Picture) -> str:
    """Rows of coloured cells with their numbers, the scale of the colours, and notes."""
    places = [index + (GAP if row.block is None else 0) for index, row in enumerate(picture.rows)]
    height = places[-1] + 1
    below = 1.6 + len(picture.notes)  # rows: the scale and the notes
    above = 1.0
    with svg.plot_style():
        figure = Figure(figsize=(WIDTH_INCHES, ROW_INCHES * (above + height + below)))
        axes = figure.add_axes((0.06, below / (above + height + below), 0.93, height / (above + height + below)))
        axes.set_xlim(0, len(picture.columns))
        axes.set_ylim(height - 0.5, -0.5)
        for row, place in zip(picture.rows, places, strict=True):
            _draw_row(axes, row, place, len(picture.columns))
        _label(axes, picture, places)
        _draw_scale(axes, len(picture.columns), place=height + 0.3)
        for index, note in enumerate(picture.notes):
            axes.text(0, height + 1.3 + index, note, va="center_baseline", color=svg.MUTED, fontsize=9)
        return svg.inline(figure, "plan", _alt(picture), description=_description(picture))


def _draw_row(axes: Axes, row: Row, place: float, columns: int) -> None:
    if not row.cells:
        axes.add_patch(_tile(0, place, columns, None))
        axes.text(columns / 2, place, "removed", ha="center", va="center_baseline", color=svg.MUTED, fontsize=9)
    for column, cell in enumerate(row.cells):
        if cell:
            _draw_cell(axes, cell, (column, place), f"cell-{'all' if row.block is None else row.block}-{column}")


def _draw_cell(axes: Axes, cell: Cell, place: tuple[float, float], name: str) -> None:
    column, row = place
    tile = _tile(column, row, 1, cell.kept)
    tile.set_gid(name)
    axes.add_patch(tile)
    axes.add_patch(_tile(column, row, 1, None))
    axes.text(column + 0.5, row, cell.text, ha="center", va="center_baseline", fontsize=9)


def _tile(column: float, place: float, width: float, kept: float | None) -> Rectangle:
    """A rectangle with a small gap around it: filled by how much is kept, or the outline (None)."""
    corner, size = (column + 0.02, place - 0.45), (width - 0.04, 0.9)
    if kept is None:
        return Rectangle(corner, *size, facecolor="none", edgecolor=svg.GRID, linewidth=0.6)
    return Rectangle(corner, *size, facecolor=svg.KEPT, alpha=min(max(kept, 0.0), 1.0), linewidth=0)


def _label(axes: Axes, picture: Picture, places: list[float]) -> None:
    """Names of the columns above, numbers of the blocks on the left."""
    axes.xaxis.tick_top()
    axes.set_xticks([column + 0.5 for column in range(len(picture.columns))], picture.columns)
    names = ["all" if row.block is None else str(row.block) for row in picture.rows]
    axes.set_yticks(places, names)
    axes.set_ylabel("block")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_scale(axes: Axes, columns: int, place: float) -> None:
    """Colours from 0 to 100 %, under the last columns."""
    width = min(columns, SCALE_STEPS) * 0.5 / SCALE_STEPS
    first = columns - width * SCALE_STEPS
    for step in range(SCALE_STEPS):
        kept = step / (SCALE_STEPS - 1)
        for part in (kept, None):
            tile = _tile(first + step * width, place, width, part)
            tile.set_clip_on(False)
            axes.add_patch(tile)
        centre = first + (step + 0.5) * width
        axes.text(centre, place, f"{100 * kept:.0f}", ha="center", va="center_baseline", fontsize=9)
    axes.text(first - 0.1, place, "% kept", ha="right", va="center_baseline", color=svg.MUTED, fontsize=9)


def _alt(picture: Picture) -> str:
    removed = sum(not row.cells for row in picture.rows)
    return f"What pruning left of {len(picture.rows) - 1} blocks, {removed} of them removed, by {_listed(picture)}."


def _listed(picture: Picture) -> str:
    *names, last = picture.columns
    return f"{', '.join(names)} and {last}"


def _description(picture: Picture) -> str:
    """All numbers of the picture, row by row."""
    rows = (
        ("Whole model" if row.block is None else f"Block {row.block}")
        + ": "
        + (
            ", ".join(f"{name} {cell.text}" for name, cell in zip(picture.columns, row.cells, strict=True) if cell)
            if row.cells
            else "removed"
        )
        for row in picture.rows
    )
    return "; ".join((*rows, *picture.notes)) + "."
