"""Unexpected errors, and messages of libraries."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from pathlib import Path

import pytest
import typer

from toolkit import cli
from toolkit.errors import CheckFailed, plainly


def ended(monkeypatch: pytest.MonkeyPatch, error: Exception) -> object:
    """Exit code of the entry point when a command raises `error`."""

    def fail() -> None:
        with cli._reporting_errors():
            raise error

    app = typer.Typer()
    app.command()(fail)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["toolkit"])
    monkeypatch.setenv("HF_HUB_VERBOSITY", "error")
    with pytest.raises(SystemExit) as caught, warnings.catch_warnings():
        cli.main()
    return caught.value.code


def test_a_bug_is_reported_in_two_lines_with_a_traceback_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ended(monkeypatch, ZeroDivisionError("\x1b[31minteger modulo by zero")) == 1
    message = capsys.readouterr().err.splitlines()
    assert message[0] == "error: this is a bug in the toolkit: ZeroDivisionError: integer modulo by zero"
    file = re.fullmatch(r" +please report it, with (\S+)", message[1])
    assert file is not None
    assert "Traceback" in Path(file[1]).read_text()
    assert len(message) == 2


def test_messages_of_libraries_are_shown_only_with_verbose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    error = CheckFailed("the graph is not valid")
    error.__cause__ = ValueError("node 7\nhas no name")
    for level, visible in ((logging.WARNING, False), (logging.INFO, True)):
        caplog.set_level(level, logger="toolkit")
        assert ended(monkeypatch, error) == 1
        assert ("node 7" in caplog.text) is visible
        assert "node 7" not in capsys.readouterr().err


def test_warnings_of_libraries_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", lambda: warnings.warn_explicit("odd", UserWarning, "timm/x.py", 3, "timm.x"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        cli.main()
        warnings.warn_explicit("ours", UserWarning, "toolkit/x.py", 3, "toolkit.x")
    assert [str(warning.message) for warning in seen] == ["ours"]


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        ("one line", "one line"),
        ("\n  first\nsecond", "first"),
        ("\x1b[1mbold\x1b[0m \x1b[38;5;9mred", "bold red"),
        ("\x1b]0;a title\x07at\x1b[?25l \x1b]8;;http://x\x1b\\a link\x1b]8;;\x1b\\", "at a link"),
        ("in /opt/venv/lib/python3.11/site-packages/torch/nn/x.py", "in torch/nn/x.py"),
        ("Exception from src/core.cpp:104:\nCheck 'a' failed at src/b.cpp:1:\nthe reason", "the reason"),
        ("x" * 300, "x" * 197 + "..."),
        ("", "ValueError"),
    ],
)
def test_plainly(message: str, plain: str) -> None:
    assert plainly(ValueError(message)) == plain


def test_plainly_omits_the_file_name() -> None:
    assert plainly(OSError(28, "No space left on device", "/x/y")) == "No space left on device"
    assert plainly(OSError("no connection")) == "no connection"
