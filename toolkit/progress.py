"""Progress reporting: a bar on a terminal, occasional lines otherwise.

Packages call a callback `progress(done, total, message)` and are independent of terminals; the command line chooses
the display.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from toolkit.characters import printable


class Progress(Protocol):
    """Callback with the number of finished steps, the total number, and an optional message."""

    def __call__(self, done: int, total: int, message: str = "") -> None: ...


@contextmanager
def no_display(title: str) -> Iterator[Progress]:
    """Display nothing."""
    yield silent


def silent(done: int, total: int, message: str = "") -> None:
    """Discard progress."""


@contextmanager
def display(title: str, every_seconds: float = 10.0) -> Iterator[Progress]:
    """Display the progress of a task on stderr."""
    if sys.stderr.isatty():
        yield from _bar(title)
    else:
        yield _lines(title, every_seconds)


def _bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[message]}", markup=False, table_column=Column(overflow="fold")),
    )
    with Bars(
        *columns, console=Console(stderr=True), auto_refresh=False
    ) as bars:  # a refresh thread would disturb measurements
        task = bars.add_task(title, total=None, message="")

        def progress(done: int, total: int, message: str = "") -> None:
            bars.update(task, completed=done, total=total, refresh=True)
            if message:
                bars.update(task, message=printable(message))

        yield progress


def _lines(title: str, every_seconds: float) -> Progress:
    last = time.monotonic()

    def progress(done: int, total: int, message: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if message or done == total or now - last >= every_seconds:
            last = now
            print(f"{title}: {done}/{total} {printable(message)}".rstrip(), file=sys.stderr, flush=True)

    return progress
