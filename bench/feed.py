"""Adapt inputs to a model's dtype and batch limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Session
from toolkit.pixels import to_pixels


def predict_logits(session: Session, images: npt.NDArray[Any], identity: Identity) -> npt.NDArray[np.float32]:
    """Logits [batch, classes] of normalised images [batch, 3, S, S].

    A batch below the model's minimum is padded with copies of its first image, whose logits are dropped.
    """
    if identity.dtype == "uint8":
        images = to_pixels(images, identity.model.preprocessing)
    size = identity.fixed_batch or min(len(images), identity.max_batch or len(images))
    logits = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        missing = (identity.fixed_batch or identity.min_batch) - len(batch)
        padded = np.concatenate([batch, *[batch[:1]] * missing])
        logits.append(session.run(padded)[: len(batch)])
    return np.concatenate(logits)
