"""What a device and the agent that measures on it say to each other.

The agent reads one `BenchRequest` from stdin and writes one record to stdout: a `BenchReport`, or a `Failure` and an
exit code that is not 0. On stderr it writes a line of `progress` before whatever may end it; anything else there is
noise from libraries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from toolkit.errors import ToolkitError
from toolkit.records import SCHEMA

PROGRESS = "progress: "


@dataclass(frozen=True)
class Subject:
    """One thing to measure."""

    folder: str
    """An artifact folder or a model folder, on the device."""
    runtime: str


@dataclass(frozen=True)
class BenchRequest:
    """Measure these side by side, one batch size after the other."""

    subjects: dict[str, Subject]
    """By their names in a user's words: dense, slim."""
    batch_sizes: tuple[int, ...]
    seconds: float
    """At least, for each batch size, all subjects together."""
    samples: int
    """At least, for each subject and batch size."""
    threads: int | None
    """None: as many as there are usable cores."""
    device: str
    """Name of the device, for the record."""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Failure:
    """A ToolkitError on its way back."""

    error: str
    """Name of its class."""
    message: str
    hint: str
    schema: int = SCHEMA

    @classmethod
    def of(cls, error: ToolkitError) -> Failure:
        return cls(type(error).__name__, error.message, error.hint)

    def restored(self) -> ToolkitError:
        """The error again. A class that is built in a way of its own (UnknownName) comes back as its parent."""
        classes = {kind.__name__: kind for kind in _tree(ToolkitError)}
        kind = classes.get(self.error, ToolkitError)
        while kind.__init__ is not ToolkitError.__init__:
            kind = kind.__mro__[1]
        return kind(self.message, self.hint)


def progress_line(done: int, total: int, message: str) -> str:
    """One line for stderr."""
    return PROGRESS + json.dumps([done, total, message])


def read_progress(line: str) -> tuple[int, int, str] | None:
    """(done, total, message) of a progress line, None for any other line."""
    if not line.startswith(PROGRESS):
        return None
    done, total, message = json.loads(line.removeprefix(PROGRESS))
    return int(done), int(total), str(message)


def _tree(kind: type[ToolkitError]) -> Iterator[type[ToolkitError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
