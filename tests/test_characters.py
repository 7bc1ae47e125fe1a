from __future__ import annotations

import pytest

from toolkit.characters import counted, is_url, listed, printable, printable_lines, strip_ansi


def test_printable_keeps_letters_and_spaces_only() -> None:
    assert printable("Bär\u00a01 ") == "Bär\u00a01 "
    assert printable("a\x1b[31m\n\udcff") == r"a\x1b[31m\n\udcff"
    assert printable("a\x07") != printable("a\x08"), "different names stay different"


def test_line_breaks_are_kept() -> None:
    assert printable_lines("one\n  two\x1b[2J\n\tthree") == ["one", r"  two\x1b[2J", "    three"]


def test_long_lists_are_abbreviated() -> None:
    assert listed(iter("abc")) == "a, b, c"
    assert listed("abcde\n", limit=6) == r"a, b, c, d, e, \n"
    assert listed(("a\x1b[2J", "b", "c", "d"), limit=2, separator="; ") == r"a\x1b[2J; b and 2 more"


def test_escape_sequences_are_removed() -> None:
    assert strip_ansi("\x1b[1;31mred\x1b[0m, \x1b[?25lhidden\x1b[>4;1m \x1b[2~end") == "red, hidden end"


def test_singular_and_plural() -> None:
    assert [counted(1, "image"), counted(2, "image"), counted(1_000, "class", "classes")] == [
        "1 image", "2 images", "1,000 classes",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["C:\\a.pth", "a:b.pth", "/x://y", "digits", "~/a b.pth"])
def test_a_path_is_not_a_url(text: str) -> None:
    assert not is_url(text)
