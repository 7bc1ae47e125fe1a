"""Closed-form compensation: weights that make up for removed units. One file per method, found by its name.

It runs after surgery and the check of its invariants: a repaired model intentionally differs from the masked model.
"""

from __future__ import annotations

from typing import Protocol, cast

from toolkit import plugins
from toolkit.models.model import Model
from toolkit.models.surgery import Removal
from toolkit.prune.calibration import Calibration
from toolkit.section import Section

KIND = "compensation"


class Compensation(Protocol):
    def repair(self, before: Model, removal: Removal, calibration: Calibration) -> Model:
        """The pruned model with other weights, of the same shapes.

        `before` is the model that the plan refers to, and is not changed; `removal.model` may be changed.
        """
        ...


def compensation(name: str, own: Section | None = None) -> Compensation:
    """The compensation of this name with its own settings (None: its defaults).

    Raises UnknownName with the closest names.
    """
    return cast(Compensation, plugins.load(__name__, name, own))
