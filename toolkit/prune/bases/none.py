"""The model's own basis."""

from __future__ import annotations

from toolkit.models.model import Model
from toolkit.prune.bases import Basis
from toolkit.prune.calibration import Calibration


class Unchanged(Basis):
    """The model itself, unchanged."""

    def rotate(self, model: Model, calibration: Calibration) -> Model:
        return model


PLUGIN: Basis = Unchanged()
