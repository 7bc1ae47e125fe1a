"""A basis that changes nothing, or fails."""

from dataclasses import dataclass

from toolkit.section import Section


class Settings(Section):
    refuse: bool = True
    """Whether to fail."""


@dataclass(frozen=True)
class Same:
    settings: Settings = Settings()

    def rotate(self, model, calibration):
        assert not self.settings.refuse
        return model


PLUGIN = Same()
