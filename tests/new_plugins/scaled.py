"""An objective that scales the loss of `erm`."""

from dataclasses import dataclass

from toolkit.dg.objectives.erm import Erm
from toolkit.section import Section


class Settings(Section):
    factor: float = 1.0
    """Factor of the loss."""


@dataclass(frozen=True)
class Scaled:
    settings: Settings = Settings()

    def __call__(self, label_loss):
        return Erm(lambda logits, labels: self.settings.factor * label_loss(logits, labels))


PLUGIN = Scaled()
