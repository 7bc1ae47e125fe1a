from __future__ import annotations

from toolkit.characters import printable, printable_lines


def test_printable_keeps_letters_and_spaces_only() -> None:
    assert printable("Bär\u00a01 ") == "Bär\u00a01 "
    assert printable("a\x1b[31m\n\udcff") == "a\ufffd[31m\ufffd\ufffd"


def test_lines_stay_lines() -> None:
    assert printable_lines("one\n  two\x1b[2J\n\tthree") == ["one", "  two\ufffd[2J", "    three"]
