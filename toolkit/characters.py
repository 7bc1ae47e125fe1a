"""Make external text (names of folders and models, output of libraries) safe for terminals and HTML pages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?)")


def printable(name: str) -> str:
    r"""A name with unprintable characters (control codes, undecodable bytes) escaped as in Python: \x1b."""
    return "".join(character if _is_printable(character) else repr(character)[1:-1] for character in name)


def printable_lines(text: str) -> list[str]:
    """Lines of a text, with unprintable characters escaped."""
    return [printable(line) for line in text.expandtabs(4).splitlines()]


def listed(names: Iterable[str], limit: int = 5, separator: str = ", ") -> str:
    """The first `limit` names, printable, and the number of others: "a, b and 3 more"."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(map(printable, names[:limit])) + more


def counted(count: int, singular: str, plural: str = "") -> str:
    """A count with its noun: "1 image", "2 images"; `plural` if it is irregular."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def is_url(text: str) -> bool:
    """Whether `text` is a URL (https://..., s3://..., hf-hub:...) and not a path."""
    return re.match(r"[A-Za-z][\w.+-]+://|hf[-_]hub:", text) is not None


def strip_ansi(text: str) -> str:
    """A text without ANSI escape sequences: colours, cursor movements, window titles."""
    return _ANSI.sub("", text)


def _is_printable(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # Zs: spaces of any width
