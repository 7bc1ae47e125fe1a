"""Progress display: a bar on a terminal, lines otherwise."""

from __future__ import annotations

import io
import sys

import pytest

from toolkit import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_last_step_is_always_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.display("train", every_seconds=3600) as update:
        for step in range(1, 101):
            update(step, 100)
    written = capsys.readouterr()
    assert written.err == "train: 100/100\n"
    assert written.out == ""


def test_a_message_is_always_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.display("train", every_seconds=3600) as update:
        update(1, 10)
        update(2, 10, "loss 0.5")
        update(3, 10)
    assert capsys.readouterr().err == "train: 2/10 loss 0.5\n"


def test_a_line_is_printed_after_the_interval(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 4.0, 11.0, 12.0])  # at the start, then at each update
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.display("train", every_seconds=10) as update:
        for step in (1, 2, 3):
            update(step, 9)
    assert capsys.readouterr().err == "train: 2/9\n"


def test_silent_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress.silent(1, 2, "message")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.display("train") as update:
        update(3, 4, "loss 0.5")
    drawn = terminal.getvalue()
    assert "train" in drawn
    assert "3/4" in drawn
    assert "loss 0.5" in drawn
    assert capsys.readouterr().out == ""


def test_a_bar_shows_names_literally_and_completely(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    with progress.display("export [bold]") as update:
        update(3, 4, f"[red]x[/b] :smile: \x1b[2J {'name' * 20}")
    drawn = terminal.getvalue()
    assert "export [bold]" in drawn
    assert "[red]x[/b]" in drawn
    assert ":smile:" in drawn
    assert "\x1b[2J" not in drawn
    assert "\u2026" not in drawn


def test_lines_escape_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.display("train") as update:
        update(1, 2, "a\x1b[31m [bold]")
    assert capsys.readouterr().err == "train: 1/2 a\\x1b[31m [bold]\n"


def test_errors_in_the_block_propagate(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with pytest.raises(ZeroDivisionError), progress.display("train"):
            raise ZeroDivisionError
