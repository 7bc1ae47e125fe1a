"""The main tables for a terminal, with ASCII text for any encoding."""

from __future__ import annotations

from rich.console import Group, RenderableType

from toolkit.records import DENSE, SLIM
from toolkit.report import summary
from toolkit.report.comparison import Sheet
from toolkit.report.contents import Page
from toolkit.terminal import Table, literal

_PLAIN = str.maketrans({"\u2212": "-", "\u00d7": "x", "\u2192": "->", "\u00a0": " "})


def summary_table(page: Page) -> Table:
    """Table of dense and slim, with the claims as title and the verdict as caption. Markup in names is not parsed."""
    title = "\n".join(summary.claims(page))
    table = Table("", DENSE, SLIM, "change", "95 % interval", title=plain(title), caption=plain(_below(page)))
    for column in table.columns[1:]:
        column.justify = "right"
    rows = summary.rows(page)
    for row, next_row in zip(rows, (*rows[1:], None), strict=True):
        name = f"{row.name} ({row.flag})" if row.flag else row.name
        cells = (name, row.before, row.after, row.change, row.interval)
        ends = next_row is not None and next_row.group != row.group
        table.add_row(*(plain(cell) for cell in cells), end_section=ends)
    return table


def comparison_table(sheet: Sheet) -> RenderableType:
    """Table of several prunings with a column for each, which fits more terminals than a row, and the notes below."""
    top, *models = ("\n".join(part or " " for part in row[: sheet.labels]) for row in (sheet.headings, *sheet.rows))
    table = Table(plain(top), *map(plain, models), title=plain(sheet.title))
    for column in table.columns[1:]:
        column.justify = "right"
    for heading, *cells in zip(*(row[sheet.labels :] for row in (sheet.headings, *sheet.rows)), strict=True):
        table.add_row(plain(heading), *map(plain, cells))
    return Group(table, literal(plain("\n".join(sheet.notes))))


def _below(page: Page) -> str:
    judgement = summary.judgement(page)
    lines = [f"export parity: {judgement.kind.upper()}. {judgement.text}"]
    lines += [f"INVALID measurement: {line}" for line in summary.invalid_measurements(page)]
    backends = dict.fromkeys(summary.backend_name(load) for load in page.loads)
    lines += [f"latency: median per call, {backend}" for backend in backends]
    return "\n".join(lines)


def plain(text: str) -> str:
    """ASCII for the typographic characters of `numbers` and `summary`."""
    return text.translate(_PLAIN)
