"""Optimal brain surgeon: the update of the remaining weights for the units that were removed (Hassibi and Stork, 1993).

W <- W - W_:R ([H^-1]_RR)^-1 [H^-1]_R: for the removed inputs R, with H = Cov(x) + lam I over the tokens of the
calibration images, as in ZipLM (2023). For a given R this is the optimum that `ridge` finds with the same damping, by
the inverse of H instead of the normal equations of the kept inputs. Optimal brain surgeon also chooses R, unit by unit:
see `ladders`.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.models.model import Model
from toolkit.models.surgery import Removal
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import Compensation
from toolkit.prune.compensate.repairing import Settings, repair_readers
from toolkit.prune.least_squares import obs_update


@dataclass(frozen=True)
class Obs:
    """Weights and biases of `fc2` and `proj` by the block update of optimal brain surgeon."""

    settings: Settings = Settings()

    def repair(self, before: Model, removal: Removal, calibration: Calibration) -> Model:
        return repair_readers(before, removal, calibration, self.settings, obs_update)


PLUGIN: Compensation = Obs()
