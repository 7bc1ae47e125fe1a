"""No compensation."""

from __future__ import annotations

from toolkit.models.model import Model
from toolkit.models.surgery import Removal
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import Compensation


class Nothing:
    """The pruned model, unchanged."""

    def repair(self, before: Model, removal: Removal, calibration: Calibration) -> Model:
        return removal.model


PLUGIN: Compensation = Nothing()
