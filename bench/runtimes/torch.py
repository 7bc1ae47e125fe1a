"""PyTorch on the processor: model folders in eager mode, which exported files are compared with, and `model.pt2`."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import nn

from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import artifact_in
from toolkit.errors import BadInput
from toolkit.models import source


class TorchSession:
    """A module in evaluation mode; see `Session`. PyTorch's thread count is the process's, so leaving restores it."""

    def __init__(self, module: nn.Module, threads: int) -> None:
        self._module: nn.Module | None = module
        self._threads = threads
        self._threads_before = torch.get_num_threads()

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        if self._module is None:
            raise RuntimeError("the session is closed")
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            logits: torch.Tensor = self._module(torch.from_numpy(images))
        return logits.numpy()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._module = None
        torch.set_num_threads(self._threads_before)


class Torch:
    """See the module."""

    def open(self, folder: Path, threads: int) -> Session:
        """Load a model folder, or what `export --torch` writes; hashes are checked while loading."""
        if (folder / "artifact.json").exists():
            artifact = artifact_in(folder, "torch", "torch")
            return TorchSession(torch.export.load(folder / artifact.file).module(), threads)
        if not (folder / "model.json").exists():
            raise BadInput(
                f"{folder} holds no model.json, so torch cannot run it",
                "give a model folder, or what `export --torch` writes",
            )
        return TorchSession(source.load(folder).module.eval(), threads)


PLUGIN: Runtime = Torch()
