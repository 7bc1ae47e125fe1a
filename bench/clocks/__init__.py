"""Clocks, one per file in this folder. Nothing else in the project takes the time of a call.

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
    """A way to take the duration of a call."""

    on_device: bool
    """Whether it times calls whose inputs and outputs stay in GPU memory."""

    def timer(self, calls: Sequence[Call]) -> Timer:
        """A timer of equivalent calls on different inputs, which it rotates over.

        Runs them to warm up, and raises what they raise.
        """
        ...


def clock(name: str, own: str = "") -> Clock:
    """The clock called `name` with its own settings as JSON (empty: its defaults); raises UnknownName, which lists the
    available ones."""
    plugin: Clock = plugins.load_with_json(__name__, name, own)
    return plugin
