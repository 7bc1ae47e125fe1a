"""Where a measurement runs. Every file in this folder is one kind of device and nothing else."""

from __future__ import annotations

from typing import Protocol

from toolkit import plugins
from toolkit.bench.messages import BenchRequest
from toolkit.progress import Progress, silent
from toolkit.records import BenchReport, Environment


class Device(Protocol):
    """A machine that models are measured on."""

    is_this_machine: bool
    """Whether it is the one that the command runs on."""

    def bench(self, request: BenchRequest, report: Progress = silent) -> BenchReport:
        """Measure what is asked for. INVALID measurements are returned like others: judging them is the caller's part.

        Raises what the agent raised, LibraryDied when it died, DeviceUnreachable when it could not be started.
        """
        ...

    def environment(self) -> Environment:
        """What the machine is, now."""
        ...


def device(name: str) -> Device:
    """The kind of device of that name; UnknownName says which there are."""
    found: Device = plugins.load(__name__, name)
    return found
