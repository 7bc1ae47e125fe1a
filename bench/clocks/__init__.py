"""Clocks, one per file in this folder. No other code times calls.

Importing this package loads neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from toolkit import plugins

KIND = "clock"
Call: TypeAlias = Callable[[], object]
Timer: TypeAlias = Callable[[], float]
"""Takes one sample: the duration of one call, in nanoseconds."""


class Clock(Protocol):
    """Method of timing calls."""

    on_device: bool
    """Whether it times calls whose inputs and outputs stay in GPU memory."""

    def timer(self, calls: Sequence[Call]) -> Timer:
        """A timer that rotates over equivalent calls on different inputs.

        Runs the calls to warm up; their exceptions propagate.
        """
        ...


def clock(name: str, own: str = "") -> Clock:
    """The clock called `name` with its own settings as JSON (empty: its defaults); raises UnknownName, which lists the
    available ones."""
    plugin: Clock = plugins.load_with_json(__name__, name, own)
    return plugin
