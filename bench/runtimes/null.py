"""A runtime that computes nothing, for tests of code that uses runtimes: it predicts the first class for every
image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toolkit.bench.identity import Identity, identify
from toolkit.bench.runtimes import Runtime, Session


class NullSession(Session):
    """Session of any folder."""

    def __init__(self, spec: Identity) -> None:
        self.spec = spec
        self._open = True

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes], 1 for the first class and 0 for the others."""
        if not self._open:
            raise RuntimeError("the session is closed")
        logits = np.zeros((len(images), len(self.spec.model.classes)), dtype=np.float32)
        logits[:, 0] = 1
        return logits

    def close(self) -> None:
        self._open = False


class Null(Runtime):
    """Opens model folders and exported files of all targets; reads only their records."""

    needs = ()
    opens_models = True

    def open(self, folder: Path, threads: int) -> Session:
        """Read the record; no file is loaded, and no hash is checked."""
        return NullSession(identify(folder))


PLUGIN: Runtime = Null()
