"""Devices that measurements run on: one per file in this folder."""

from __future__ import annotations

from typing import Protocol

from toolkit import plugins
from toolkit.bench.messages import BenchRequest
from toolkit.progress import Progress, silent
from toolkit.records import BenchReport, Environment


class Device(Protocol):
    """A machine that models are measured on."""

    is_this_machine: bool
    """Whether it is the machine that the command runs on."""

    def bench(self, request: BenchRequest, progress: Progress = silent) -> BenchReport:
        """Execute the request. INVALID measurements are returned like valid ones, for the caller to handle.

        Raises the agent's error, LibraryDied if it crashed, DeviceUnreachable if it could not be started.
        """
        ...

    def environment(self) -> Environment:
        """Current hardware and software of the device."""
        ...


def device(name: str) -> Device:
    """The device plug-in called `name`; raises UnknownName, which lists the available ones."""
    plugin: Device = plugins.load(__name__, name)
    return plugin
