"""Tables show what they are given: nothing is markup, nothing is cut off."""

from __future__ import annotations

import io
import re
import sys

import pytest

from toolkit import terminal

HOSTILE = ("[bold]", "a[/b]", "[red]x[/red]", ":smile:", "a$b$", "<b>", "vit-toolkit[tensorrt]", "\\[x]", "1 [2, 3] 4")


class Window(io.StringIO):
    def isatty(self) -> bool:
        return True


def table() -> terminal.Table:
    made = terminal.Table(*HOSTILE[:2], title=HOSTILE[2], caption=f"{HOSTILE[3]}\n{HOSTILE[4]}")
    for each in HOSTILE:
        made.add_row(each, "word" * 30)
    return made


def test_nothing_is_markup(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show(table())
    text = capsys.readouterr().err
    for each in HOSTILE:
        assert each in text


def test_control_characters_do_not_reach_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    made = terminal.Table("a", "b", title="\x1b[2J")
    made.add_row("\x1b[31mred", "two\nlines")
    terminal.show(made)
    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text


def test_a_row_of_a_log_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    made = terminal.Table("what", "detail")
    made.add_row("file", "/a/path/" + "long/" * 60)
    terminal.show(made)
    assert "/a/path/" + "long/" * 60 in capsys.readouterr().err


def test_a_narrow_window_cuts_nothing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window()
    monkeypatch.setattr(sys, "stderr", window)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    made = terminal.Table("what", "detail")
    made.add_row("file", "/a/path/" + "long/" * 30)
    terminal.show(made)
    text = re.sub(r"\x1b\[[0-9;]*m", "", window.getvalue())
    assert max(map(len, text.splitlines())) <= 40
    assert "\u2026" not in text
    assert "".join(text.split()).endswith("/a/path/" + "long/" * 30)
