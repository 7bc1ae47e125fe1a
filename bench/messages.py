"""Protocol between a device and the benchmark agent.

The agent reads one `BenchRequest` from stdin and writes one record to stdout: a `BenchReport`, or a `Failure` with a
non-zero exit code. On stderr it writes a progress line before each step that may crash it; all other lines there are
library output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from toolkit.errors import ToolkitError

PROGRESS = "progress: "


@dataclass(frozen=True)
class Subject:
    """A model or an exported file to measure."""

    folder: str
    """Artifact folder or model folder on the device."""
    runtime: str
    settings: str = ""
    """The runtime's own settings as JSON; empty: its defaults."""


@dataclass(frozen=True)
class BenchRequest:
    """Subjects to measure interleaved, one batch size after the other."""

    subjects: dict[str, Subject]
    """Name shown to the user (dense, slim) to subject."""
    batch_sizes: tuple[int, ...]
    seconds: float
    """Minimum duration per batch size, for all subjects together."""
    samples: int
    """Minimum number of samples per subject and batch size."""
    threads: int | None
    """Number of threads; None: one per usable core."""
    device: str
    """Name of the device, copied to the measurements."""
    clock: str = "host"
    """Name of the clock."""
    clock_settings: str = ""
    """The clock's own settings as JSON; empty: its defaults."""
    libraries: tuple[str, ...] = ()
    """Modules whose versions the measurements record, besides those of the runtimes."""
    schema: int = 1


@dataclass(frozen=True)
class Failure:
    """A serialised ToolkitError."""

    error: str
    """Class name."""
    message: str
    hint: str
    schema: int = 1

    @classmethod
    def from_error(cls, error: ToolkitError) -> Failure:
        return cls(type(error).__name__, error.message, error.hint)

    def to_error(self) -> ToolkitError:
        """Rebuild the error. Errors with a custom constructor (UnknownName) are restored as their base class."""
        classes = {kind.__name__: kind for kind in _class_tree(ToolkitError)}
        kind = classes.get(self.error, ToolkitError)
        while kind.__init__ is not ToolkitError.__init__:
            kind = kind.__mro__[1]
        return kind(self.message, self.hint)


def progress_line(done: int, total: int, message: str) -> str:
    """Encode a progress report as one line for stderr."""
    return PROGRESS + json.dumps([done, total, message])


def read_progress(line: str) -> tuple[int, int, str] | None:
    """Decode a progress line into (done, total, message); None for any other line."""
    if not line.startswith(PROGRESS):
        return None
    done, total, message = json.loads(line.removeprefix(PROGRESS))
    return int(done), int(total), str(message)


def _class_tree(kind: type[ToolkitError]) -> Iterator[type[ToolkitError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _class_tree(child)
