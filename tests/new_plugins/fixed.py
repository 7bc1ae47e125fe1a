"""A clock with a constant duration."""

from dataclasses import dataclass

from toolkit.bench.clocks import clock
from toolkit.section import Section


class Settings(Section):
    factor: float = 1.0
    """Factor of all durations."""


@dataclass(frozen=True)
class Fixed:
    settings: Settings = Settings()

    on_device = False

    def timer(self, calls):
        take = clock("host").timer(calls)
        return lambda: 0 * take() + 1e6 * self.settings.factor


PLUGIN = Fixed()
