"""This machine under another name."""

from dataclasses import dataclass, replace

from toolkit.bench.devices import device
from toolkit.section import Section


class Settings(Section):
    label: str = "none"
    """Name of the device in the report."""


@dataclass(frozen=True)
class Here:
    settings: Settings = Settings()

    is_this_machine = True

    def bench(self, request, progress):
        return device("local").bench(replace(request, device=self.settings.label), progress)

    def environment(self, libraries):
        return device("local").environment(libraries)


PLUGIN = Here()
