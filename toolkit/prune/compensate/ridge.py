"""Ridge regression: the layers that read removed units get the weights that reproduce their old outputs best.

For `fc2` of MLPs and `proj` of attention: W' = argmin E|W' x_kept + b' - W x - b|^2 + lam |W' - W_kept|^2, over the
tokens of the calibration images in the model before the removal (Frantar et al., ZipLM, 2023; CORP, 2026). The constant
b' is not damped, so that means of removed units move into the bias. Layers without a bias get weights only.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.models.model import Model
from toolkit.models.surgery import Removal
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import Compensation
from toolkit.prune.compensate.repairing import Settings, repair_readers
from toolkit.prune.least_squares import refit


@dataclass(frozen=True)
class Ridge:
    """Weights and biases of `fc2` and `proj` by ridge regression on the kept inputs."""

    settings: Settings = Settings()

    def repair(self, before: Model, removal: Removal, calibration: Calibration) -> Model:
        return repair_readers(before, removal, calibration, self.settings, refit)


PLUGIN: Compensation = Ridge()
