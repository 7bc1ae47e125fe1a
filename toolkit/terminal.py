"""Tables as a terminal or a log shows them: what a cell holds is shown as it is, and whole.

rich would take `[name]` for markup and `:name:` for an emoji, cut off a word that is longer than its column, and give
80 columns to everything that is no terminal.
"""

from __future__ import annotations

from rich import box, table
from rich.console import Console, RenderableType
from rich.style import StyleType
from rich.text import Text

from toolkit.characters import printable_lines

UNBROKEN = 100_000
"""Columns where nobody's window ends: each row of a table is one line of a log."""


class Table(table.Table):
    """A table whose title, headings, cells and caption are literal text. Long words go on in the next line."""

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
        cells = (literal(each) if isinstance(each, str) else each for each in renderables)
        super().add_row(*cells, style=style, end_section=end_section)


def literal(text: str) -> Text:
    """Text without markup, emoji codes and control characters."""
    return Text("\n".join(printable_lines(text)))


def show(shown: RenderableType) -> None:
    """Print tables and literal text on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = UNBROKEN
    console.print(shown)
