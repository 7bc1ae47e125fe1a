"""Tables with literal, complete cells.

By default rich interprets `[name]` as markup and `:name:` as an emoji, truncates words that are wider than their
column, and wraps at 80 columns when the output is not a terminal.
"""

from __future__ import annotations

from rich import box, table
from rich.console import Console, RenderableType
from rich.style import StyleType
from rich.text import Text

from toolkit.characters import printable_lines

LOG_WIDTH = 100_000
"""Columns when the output is not a terminal: one line per table row."""


class Table(table.Table):
    """A table whose title, headings, cells and caption are literal text; long words are wrapped."""

    def __init__(self, *headings: str, title: str = "", caption: str = "") -> None:
        super().__init__(
            title=literal(title) if title else None,
            caption=literal(caption) if caption else None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for heading in headings:
            self.add_column(literal(heading), overflow="fold")

    def add_row(
        self, *renderables: RenderableType | None, style: StyleType | None = None, end_section: bool = False
    ) -> None:
        """Add a row; strings in it are literal."""
        cells = (literal(cell) if isinstance(cell, str) else cell for cell in renderables)
        super().add_row(*cells, style=style, end_section=end_section)


def literal(text: str) -> Text:
    """Text without markup, emoji codes and control characters."""
    return Text("\n".join(printable_lines(text)))


def show(renderable: RenderableType) -> None:
    """Print a table or literal text on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    console.print(renderable)
