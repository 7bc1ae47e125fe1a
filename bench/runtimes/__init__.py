"""Inference runtimes: one per file in this folder."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from toolkit import plugins


class Session(Protocol):
    """A loaded model that is ready to run; a context manager that closes it on exit."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] float32, normalised -> logits: [batch, classes] float32."""
        ...

    def close(self) -> None:
        """Free the model; `run` raises RuntimeError from now on."""
        ...

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Runtime(Protocol):
    """An inference library."""

    def open(self, folder: Path, threads: int) -> Session:
        """Load an artifact folder or a model folder, depending on the runtime, to run on `threads` threads.

        Raises BadInput for an unsupported folder, WeightsError if a file does not match the hash in its record.
        """
        ...


def runtime(name: str) -> Runtime:
    """The runtime plug-in called `name`; raises UnknownName, or MissingDependency if it is not installed."""
    plugin: Runtime = plugins.load(__name__, name)
    return plugin
