"""Inference runtimes: one per file in this folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from toolkit import plugins
from toolkit.bench.clocks import Call
from toolkit.bench.identity import Identity
from toolkit.errors import BadInput

KIND = "runtime"


class Session(Protocol):
    """A loaded model that is ready to run; a context manager that closes it on exit."""

    spec: Identity

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] in the format `spec.input` -> logits: [batch, classes] float32."""
        ...

    def predict(self, images: np.ndarray) -> np.ndarray:
        """images: [any number, 3, S, S] float32, normalised -> logits: [any number, classes] float32."""
        return self.spec.input.logits(self.run, images)

    def call(self, images: np.ndarray, *, on_device: bool) -> Call:
        """One call on these images for a clock to time, without the copies to and from a GPU if it is `on_device`.

        Raises BadInput for `on_device` if the runtime keeps no images in GPU memory.
        """
        if on_device:
            raise BadInput(
                "this runtime takes images from host memory, but GPU clocks time calls without copies",
                "use the clock host, or another runtime",
            )
        return partial(self.run, images)

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
    """Packages that it needs to run files."""
    uses_gpu: bool = False
    """Whether files run on the GPU, so that results depend on it."""

    opens_models: bool
    """Whether it opens model folders."""

    def open(self, folder: Path, threads: int) -> Session:
        """Load an artifact folder or a model folder, depending on the runtime, to run on `threads` threads.

        Raises BadInput for an unsupported folder, WeightsError if a file does not match the hash in its record.
        """
        ...


def runtime(name: str, own: str = "") -> Runtime:
    """The runtime called `name` with its own settings as JSON (empty: its defaults); raises UnknownName, or
    MissingDependency if it is not installed."""
    plugin: Runtime = plugins.load_with_json(__name__, name, own)
    return plugin


def described(name: str) -> Runtime:
    """The runtime called `name`, whose packages may be missing."""
    plugin: Runtime = plugins.find(__name__, name)
    return plugin
