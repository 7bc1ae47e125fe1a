"""Inference runtimes: one per file in this folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from toolkit import plugins

KIND = "runtime"


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
    """An inference library. Its file is imported on devices too, where pydantic and torch may be missing."""

    needs: tuple[str, ...]
    """Packages that it runs files with."""
    uses_gpu: bool = False
    """Files run on the GPU, so that results depend on it."""

    def open(self, folder: Path, threads: int) -> Session:
        """Load an artifact folder or a model folder, depending on the runtime, to run on `threads` threads.

        Raises BadInput for an unsupported folder, WeightsError if a file does not match the hash in its record.
        """
        ...


def runtime(name: str, own: str = "") -> Runtime:
    """The runtime called `name` with its own settings as JSON (empty: its defaults); raises UnknownName, or
    MissingDependency if it is not installed."""
    plugin: Any = plugins.load(__name__, name)
    configured: Runtime = replace(plugin, settings=plugin.settings.model_validate_json(own)) if own else plugin
    return configured


def described(name: str) -> Runtime:
    """The runtime called `name`, whose packages may be missing."""
    plugin: Runtime = plugins.find(__name__, name)
    return plugin
