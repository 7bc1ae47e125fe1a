"""PyTorch on the CPU: model folders in eager mode, the reference for exported files, and `model.pt2`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Runtime, Session
from toolkit.bench.runtimes.files import read_artifact
from toolkit.errors import BadInput, WrongMachine
from toolkit.export import torch_program as pt2
from toolkit.models import store


class TorchSession(Session):
    """Session around a module in evaluation mode. PyTorch's thread count is global, so `close` restores it."""

    def __init__(self, module: Callable[[torch.Tensor], torch.Tensor], spec: Identity, threads: int) -> None:
        self.spec = spec
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


class Torch(Runtime):
    """PyTorch, eager or compiled ahead of time."""

    needs = ("torch",)
    opens_models = True

    def open(self, folder: Path, threads: int) -> Session:
        """Load a model folder, or an artifact of the torch target; checks the hashes."""
        if (folder / "artifact.json").exists():
            artifact = read_artifact(folder, "torch", "torch")
            built_for = (artifact.device_architecture, artifact.built_with.get("torch"))
            if artifact.compiled and built_for != (current := (pt2.cpu_kind(), str(torch.__version__))):
                raise WrongMachine(
                    f"{folder / artifact.file} was compiled for {' and torch '.join(map(str, built_for))}, and this is "
                    f"{' and torch '.join(current)}",
                    f"export it again here; {folder / pt2.PROGRAM} runs anywhere (torch.export.load)",
                )
            program = pt2.load(folder / artifact.file, compiled=artifact.compiled)
            return TorchSession(program, Identity.of_artifact(artifact), threads)
        if not (folder / "model.json").exists():
            raise BadInput(
                f"{folder} contains no model.json, so torch cannot run it",
                "use a model folder, or an artifact of `export --torch`",
            )
        model = store.load(folder)
        return TorchSession(model.module.eval(), Identity.of_model(model.info), threads)


PLUGIN: Runtime = Torch()
