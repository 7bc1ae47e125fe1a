"""Errors that users can cause, with the exit code that each ends a command with.

    ToolkitError
    ├── CheckFailed            1   a check failed: parity, an invariant, a limit
    │   └── LibraryDied            a library crashed the process that it ran in
    ├── BadInput               2   unusable input
    │   ├── UnknownName            no model, method, criterion, domain, ... of this name
    │   ├── RecipeError            an unknown or invalid setting
    │   ├── PluginError            a plug-in that cannot be imported, or two of one name
    │   ├── DataError              a folder of images that cannot be used
    │   ├── WeightsError           weights that do not match the model, or are damaged or unsafe
    │   ├── UnsupportedModel       a model that cannot be pruned or exported
    │   ├── PlanError              a plan that does not match the model
    │   ├── BudgetError            a budget that cannot be met
    │   ├── RecordError            an invalid record file
    │   ├── WrongMachine           a file that does not run on this machine, or with this version of its library
    │   ├── RunFolderError         a folder that is in use, or not a run folder
    │   └── StorageError           the disk cannot be written
    ├── InvalidMeasurement     3   an INVALID measurement
    ├── DeviceUnreachable      4   the device cannot be reached
    └── MissingDependency      5   an optional package is not installed

`message` says what happened and why, `hint` what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from toolkit.characters import strip_ansi


class ToolkitError(Exception):
    """Base class of the errors above."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class CheckFailed(ToolkitError):
    """A check failed."""


class LibraryDied(CheckFailed):
    """A library crashed the process that it ran in (see `isolated`), or the system ended it."""


class BadInput(ToolkitError):
    """Unusable input."""

    exit_code = 2


class UnknownName(BadInput):
    """There is no `kind` called `name`; suggests the closest names in `known`."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} {name!r}", suggestion(name, self.known))

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        return UnknownName, (self.kind, self.name, self.known)


class RecipeError(BadInput):
    """An unknown or invalid setting."""


class PluginError(BadInput):
    """A plug-in that cannot be imported, or two of one name."""


class DataError(BadInput):
    """A folder of images that cannot be used."""


class WeightsError(BadInput):
    """Weights that do not match the model, or are damaged or unsafe."""


class UnsupportedModel(BadInput):
    """A model that cannot be pruned or exported."""


class PlanError(BadInput):
    """A plan that does not match the model."""


class BudgetError(BadInput):
    """A budget that cannot be met."""


class RecordError(BadInput):
    """An invalid record file."""


class WrongMachine(BadInput):
    """A file that cannot run here: made for another CPU, GPU or library version, or in an unsupported dtype."""


class RunFolderError(BadInput):
    """A folder that is in use, or not a run folder."""


class StorageError(BadInput):
    """The disk cannot be written."""


class InvalidMeasurement(ToolkitError):
    """An INVALID measurement."""

    exit_code = 3


class DeviceUnreachable(ToolkitError):
    """The device cannot be reached."""

    exit_code = 4


class MissingDependency(ToolkitError):
    """An optional package is not installed."""

    exit_code = 5


@contextmanager
def errors_naming(final: Path, draft: Path) -> Iterator[None]:
    """Replace the draft's path in error messages by the final path: the draft is deleted before they are read."""
    try:
        yield
    except ToolkitError as error:
        for old, new in ((str(draft), str(final)), (draft.name, final.name)):
            error.message, error.hint = error.message.replace(old, new), error.hint.replace(old, new)
        raise


def suggestion(name: str, known: Iterable[str], shown: int = 12) -> str:
    """'did you mean ...?' if there are close names, else the first known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    names = ", ".join(known[:shown])
    return f"known: {names}{', ...' if len(known) > shown else ''}" if known else ""


def plainly(error: BaseException, longest: int = 200) -> str:
    """A foreign exception in one line for our messages: without ANSI codes, library paths, source locations and file
    names (ours names the file), at most `longest` characters; the exception's class if it has no message.
    """
    message = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    text = re.sub(r"[^\s\"'(]*/(?:site|dist)-packages/", "", strip_ansi(message))
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not _SOURCE_LOCATION.search(line)), "") or type(error).__name__
    return first if len(first) <= longest else f"{first[: longest - 3]}..."


_SOURCE_LOCATION = re.compile(r"\.(?:cpp|cc|hpp|h|py):\d+:?$")
"""Matches a line that ends with a location in a library's sources."""
