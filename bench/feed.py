"""Images as a file wants them: normalised or as pixels, as many at a time as it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Session
from toolkit.pixels import to_pixels


def answers(session: Session, images: npt.NDArray[Any], identity: Identity) -> npt.NDArray[np.float32]:
    """Logits [batch, classes] for normalised images [batch, 3, S, S]. A batch that is too
    small for the file is filled up, and its logits cut off again."""
    if identity.dtype == "uint8":
        images = to_pixels(images, identity.model.preprocessing)
    size = identity.batch or min(len(images), identity.most or len(images))
    logits = []
    for start in range(0, len(images), size):
        some = images[start : start + size]
        missing = (identity.batch or identity.least) - len(some)
        full = np.concatenate([some, *[some[:1]] * missing])
        logits.append(session.run(full)[: len(some)])
    return np.concatenate(logits)
