"""Every error a user can cause, and the exit code each one ends a command with.

    ToolkitError
    ├── CheckFailed            1   a check of ours failed: parity, an invariant, a gate
    │   └── LibraryDied            a library has ended the process that it ran in
    ├── BadInput               2   something given to us cannot be used
    │   ├── UnknownName            no model, method, criterion, domain, ... of that name
    │   ├── RecipeError            a setting that does not exist or has no meaning
    │   ├── DataError              a folder of images that cannot be learned from
    │   ├── WeightsError           weights that do not fit, or are not safe or whole to load
    │   ├── UnsupportedModel       a model this toolkit cannot take apart
    │   ├── PlanError              a plan that does not fit the model
    │   ├── BudgetError            a budget that cannot be met
    │   ├── RecordError            a record file that is not what we wrote
    │   ├── WrongMachine           a file that does not run on this machine, or with this version of its library
    │   ├── RunFolderError         a run folder we must not touch
    │   └── StorageError           the disk refused
    ├── InvalidMeasurement     3   the measurement says nothing
    ├── DeviceUnreachable      4   no connection to the device
    └── MissingDependency      5   an optional package is not installed

A message says what happened and why; `hint` says what to do about it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from toolkit.characters import without_colours


class ToolkitError(Exception):
    """Base of all errors above. `message`: what happened and why. `hint`: what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class CheckFailed(ToolkitError):
    """A check ran and did not hold."""


class LibraryDied(CheckFailed):
    """A library has ended the process that it ran in (see `isolated`), or a system has."""


class BadInput(ToolkitError):
    """Something given to us cannot be used."""

    exit_code = 2


class UnknownName(BadInput):
    """`name` is no `kind` we know; the closest of `known` is suggested."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} {name!r}", suggestion(name, self.known))

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        return UnknownName, (self.kind, self.name, self.known)


class RecipeError(BadInput):
    """A setting that does not exist or has no meaning."""


class DataError(BadInput):
    """A folder of images that cannot be learned from."""


class WeightsError(BadInput):
    """Weights that do not fit the model, or are not safe or whole to load."""


class UnsupportedModel(BadInput):
    """A model this toolkit cannot take apart."""


class PlanError(BadInput):
    """A plan that does not fit the model."""


class BudgetError(BadInput):
    """A budget that cannot be met."""


class RecordError(BadInput):
    """A record file that is not what we wrote."""


class WrongMachine(BadInput):
    """A file that this machine does not run: made for another processor, GPU or version of its library, or in a format
    that its library has no kernels for."""


class RunFolderError(BadInput):
    """A run folder we must not touch."""


class StorageError(BadInput):
    """The disk refused to write."""


class InvalidMeasurement(ToolkitError):
    """The measurement ran but says nothing."""

    exit_code = 3


class DeviceUnreachable(ToolkitError):
    """No connection to the device."""

    exit_code = 4


class MissingDependency(ToolkitError):
    """An optional package is not installed."""

    exit_code = 5


@contextmanager
def speaking_of(final: Path, draft: Path) -> Iterator[None]:
    """Errors of ours that name a draft name what it was to become: the draft is gone when they are read."""
    try:
        yield
    except ToolkitError as error:
        for own, named in ((str(draft), str(final)), (draft.name, final.name)):
            error.message, error.hint = error.message.replace(own, named), error.hint.replace(own, named)
        raise


def suggestion(name: str, known: Iterable[str], shown: int = 12) -> str:
    """'did you mean ...?' when something is close, else the first few names there are."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    listed = ", ".join(known[:shown])
    return f"known: {listed}{', ...' if len(known) > shown else ''}" if known else ""


def plainly(error: BaseException, longest: int = 200) -> str:
    """What a library or a system says, in one line for a message of ours: nothing for terminals only, no folders of
    libraries, no places in their sources, no file (ours names it), not too long; the kind of error if it says nothing.
    """
    said = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    text = re.sub(r"[^\s\"'(]*/(?:site|dist)-packages/", "", without_colours(said))
    lines = (line.strip() for line in text.splitlines())
    said = next((line for line in lines if line and not _PLACE.search(line)), "") or type(error).__name__
    return said if len(said) <= longest else f"{said[: longest - 3]}..."


_PLACE = re.compile(r"\.(?:cpp|cc|hpp|h|py):\d+:?$")
"""A line that ends with where in its sources a library failed."""
