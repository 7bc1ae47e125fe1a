"""How long work tells where it is: a bar on a terminal, a line now and then elsewhere.

Rooms call `report(done, total, message)` and know nothing of terminals; the command line chooses who listens.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from toolkit.characters import printable


class Progress(Protocol):
    def __call__(self, done: int, total: int, message: str = "") -> None: ...


@contextmanager
def hidden(title: str) -> Iterator[Progress]:
    """For commands that are to say nothing."""
    yield silent


def silent(done: int, total: int, message: str = "") -> None:
    """For callers that do not care."""


@contextmanager
def shown(title: str, every_seconds: float = 10.0) -> Iterator[Progress]:
    """Progress of one piece of work on stderr."""
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
    with Bars(*columns, console=Console(stderr=True), auto_refresh=False) as bars:  # no thread beside a measurement
        task = bars.add_task(title, total=None, message="")

        def report(done: int, total: int, message: str = "") -> None:
            bars.update(task, completed=done, total=total, refresh=True)
            if message:
                bars.update(task, message=printable(message))

        yield report


def _lines(title: str, every_seconds: float) -> Progress:
    last = time.monotonic()

    def report(done: int, total: int, message: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if message or done == total or now - last >= every_seconds:
            last = now
            print(f"{title}: {done}/{total} {printable(message)}".rstrip(), file=sys.stderr, flush=True)

    return report
