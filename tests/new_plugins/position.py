"""A criterion that scores units by their position."""

from dataclasses import dataclass

import torch

from toolkit.section import Section


class Settings(Section):
    power: float = 1.0
    """Exponent of the position."""


@dataclass(frozen=True)
class Position:
    settings: Settings = Settings()

    needs = ("yaml",)

    def score(self, model, calibration, groups):
        places = groups.reduce(lambda name, weight: torch.ones_like(weight))
        return {key: torch.arange(len(units)).double() ** self.settings.power for key, units in places.items()}


PLUGIN = Position()
