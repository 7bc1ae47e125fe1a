"""Devices that measurements run on: one per file in this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from toolkit import plugins
from toolkit.bench.messages import BenchRequest
from toolkit.progress import Progress, silent
from toolkit.records import BenchReport, Environment

if TYPE_CHECKING:
    from toolkit.section import Section

KIND = "device"


class Device(Protocol):
    """A machine that models are measured on."""

    is_this_machine: bool
    """Whether it is the machine that the command runs on."""

    def bench(self, request: BenchRequest, progress: Progress = silent) -> BenchReport:
        """Execute the request. INVALID measurements are returned like valid ones, for the caller to handle.

        Raises the agent's error, LibraryDied if it crashed, DeviceUnreachable if it could not be started.
        """
        ...

    def environment(self, libraries: Sequence[str]) -> Environment:
        """Current hardware and software of the device, with the versions of these modules' packages."""
        ...


def device(name: str, own: Section | None = None) -> Device:
    """The device called `name` with its own settings (None: its defaults); raises UnknownName, which lists the
    available ones."""
    plugin: Device = plugins.load(__name__, name, own)
    return plugin
