"""Changes of basis: exact rewrites of a model before its units are scored. One file per basis, found by its name.

A rotated model has equal logits but other units, of which fewer may be needed. The plan's indices refer to the rotated
model, which is saved.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch

from toolkit import plugins
from toolkit.errors import CheckFailed
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.prune.calibration import Calibration
from toolkit.section import Section

KIND = "basis"
TOLERANCE = 1e-4
"""Maximum difference of the logits in float32, relative to the largest logit (at least 1)."""


class Basis(Protocol):
    def check(self, model: Model) -> None:
        """Raise UnsupportedModel, before training, for a model of this structure that cannot be rewritten."""
        return

    def rotate(self, model: Model, calibration: Calibration) -> Model:
        """A model with equal logits, of the same widths; `model` itself if nothing changes. `model` is not changed."""
        ...


def basis(name: str, own: Section | None = None) -> Basis:
    """The basis of this name with its own settings (None: its defaults). Raises UnknownName with the closest names."""
    return cast(Basis, plugins.load(__name__, name, own))


def rotate(name: str, model: Model, calibration: Calibration, own: Section | None = None) -> Model:
    """The model in this basis. Raises CheckFailed if its logits differ."""
    rotated = basis(name, own).rotate(model, calibration)
    if rotated is model:
        return model
    inputs = model.example(batch=2)
    with evaluating(model.module), evaluating(rotated.module), torch.inference_mode():
        expected, actual = model.module(**inputs), rotated.module(**inputs)
    difference, scale = float((expected - actual).abs().max()), max(1.0, float(expected.abs().max()))
    if not difference <= TOLERANCE * scale:
        raise CheckFailed(
            f"basis {name!r} changes the model's logits by {difference:.2e}, whose scale is {scale:.2g}",
            "prune without it: --basis none",
        )
    return rotated
