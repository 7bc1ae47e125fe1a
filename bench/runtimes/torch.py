"""PyTorch on the processor: model folders in eager mode, which exported files are compared with, and `model.pt2`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import artifact_in
from toolkit.errors import BadInput, WrongMachine
from toolkit.export import torch as pt2
from toolkit.models import store


class TorchSession(Session):
    """A module in evaluation mode; see `Session`. PyTorch's thread count is the process's, so leaving restores it."""

    def __init__(self, module: Callable[[torch.Tensor], torch.Tensor], threads: int) -> None:
        self._module: Callable[[torch.Tensor], torch.Tensor] | None = module
        self._threads = threads
        self._threads_before = torch.get_num_threads()

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        if self._module is None:
            raise RuntimeError("the session is closed")
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            return self._module(torch.from_numpy(images)).numpy()

    def close(self) -> None:
        self._module = None
        torch.set_num_threads(self._threads_before)


class Torch:
    """See the module."""

    def open(self, folder: Path, threads: int) -> Session:
        """Load a model folder, or what `export --torch` writes; hashes are checked while loading."""
        if (folder / "artifact.json").exists():
            artifact = artifact_in(folder, "torch", "torch")
            compiled = bool(artifact.options.get("compiled"))
            made_for = (artifact.device_architecture, artifact.built_with.get("torch"))
            if compiled and made_for != (here := (pt2.cpu_kind(), str(torch.__version__))):
                raise WrongMachine(
                    f"{folder / artifact.file} was compiled for {' and torch '.join(map(str, made_for))}, and this is "
                    f"{' and torch '.join(here)}",
                    f"export it again here; {folder / pt2.PROGRAM} opens anywhere (torch.export.load)",
                )
            return TorchSession(pt2.load(folder / artifact.file, compiled=compiled), threads)
        if not (folder / "model.json").exists():
            raise BadInput(
                f"{folder} holds no model.json, so torch cannot run it",
                "give a model folder, or what `export --torch` writes",
            )
        return TorchSession(store.load(folder).module.eval(), threads)


PLUGIN: Runtime = Torch()
