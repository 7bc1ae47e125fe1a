"""Which characters of a name from outside (a folder's, a model's, a library's) a page or a terminal may be sent."""

from __future__ import annotations

import unicodedata


def printable(name: str) -> str:
    """A name with what no page or terminal should be sent replaced by U+FFFD."""
    return "".join(one if one.isprintable() or unicodedata.category(one) == "Zs" else "\ufffd" for one in name)


def printable_lines(text: str) -> list[str]:
    """The lines of a text, each of them printable."""
    return [printable(line) for line in text.expandtabs(4).splitlines()]
