"""What runs a model. Every file in this folder is one runtime and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from toolkit import plugins


class Session(Protocol):
    """A model that is loaded and ready; a context manager that frees it on leaving."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] float32, normalised -> logits: [batch, classes] float32."""
        ...

    def close(self) -> None:
        """Free it; it can be run no more."""
        ...

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Runtime(Protocol):
    """A library that runs models."""

    def open(self, folder: Path, threads: int) -> Session:
        """Load an artifact folder or a model folder, whichever the runtime reads, to run on `threads` threads.

        Raises BadInput for a folder of the other kind, WeightsError when the file is not the one its record describes.
        """
        ...


def runtime(name: str) -> Runtime:
    """The runtime of that name; UnknownName says which there are, MissingDependency what to install."""
    found: Runtime = plugins.load(__name__, name)
    return found
