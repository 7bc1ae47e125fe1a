"""Names and texts from outside (a folder's, a model's, a library's), as a page or a terminal may be sent them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?)")


def printable(name: str) -> str:
    r"""A name in which what no page or terminal should be sent (line breaks, commands to a terminal, bytes that are no
    text) is written as Python writes it: \n, \x1b, \udcff."""
    return "".join(one if _is_printable(one) else repr(one)[1:-1] for one in name)


def printable_lines(text: str) -> list[str]:
    """The lines of a text, each of them printable."""
    return [printable(line) for line in text.expandtabs(4).splitlines()]


def listed(names: Iterable[str], shown: int = 5, between: str = ", ") -> str:
    """The first few names, printable, and the number of the others: "a, b and 3 more"."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return between.join(map(printable, names[:shown])) + more


def counted(count: int, one: str, many: str = "") -> str:
    """ "1 image", "2 images"; `many` where that is not the word with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def is_address(text: str) -> bool:
    """Whether it is an address on a network, and no path: https://..., s3://..., hf-hub:..."""
    return re.match(r"[A-Za-z][\w.+-]+://|hf[-_]hub:", text) is not None


def without_colours(text: str) -> str:
    """A text without ANSI's commands to a terminal: colours, moves of the cursor, names of the window."""
    return _ANSI.sub("", text)


def _is_printable(one: str) -> bool:
    """Spaces of all widths are."""
    return one.isprintable() or unicodedata.category(one) == "Zs"
