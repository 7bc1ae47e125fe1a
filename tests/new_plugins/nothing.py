"""A compensation that changes nothing, or fails."""

from dataclasses import dataclass

from toolkit.section import Section


class Settings(Section):
    refuse: bool = True
    """Whether to fail."""


@dataclass(frozen=True)
class Nothing:
    settings: Settings = Settings()

    def repair(self, before, removal, calibration):
        assert not self.settings.refuse
        return removal.model


PLUGIN = Nothing()
