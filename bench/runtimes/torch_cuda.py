"""PyTorch in eager mode on an NVIDIA GPU, in bfloat16, for model folders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.bench.clocks import Call
from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Runtime, Session
from toolkit.errors import BadInput, DeviceUnreachable
from toolkit.models import store

Compiler = Callable[[nn.Module], Callable[[Tensor], Tensor]]


class TorchGpuSession(Session):
    """Session around a module in GPU memory."""

    def __init__(self, module: Callable[[Tensor], Tensor], spec: Identity, device: str) -> None:
        self.spec, self._device = spec, device
        self._module: Callable[[Tensor], Tensor] | None = module

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes], including the copies to and from the GPU."""
        return self._logits(self._upload(images)).float().cpu().numpy()

    def call(self, images: np.ndarray, *, on_device: bool) -> Call:
        return partial(self._logits, self._upload(images)) if on_device else partial(self.run, images)

    def close(self) -> None:
        self._module = None

    def _upload(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(images).to(self._device, torch.bfloat16)

    def _logits(self, images: Tensor) -> Tensor:
        if self._module is None:
            raise RuntimeError("the session is closed")
        with torch.inference_mode():
            return self._module(images)


class TorchGpu(Runtime):
    """PyTorch on an NVIDIA GPU, or on `device`."""

    needs = ("torch",)
    uses_gpu = True
    opens_models = True

    def __init__(self, name: str, compiler: Compiler | None = None, device: str = "cuda") -> None:
        self._name, self._compiler, self._device = name, compiler, device

    def open(self, folder: Path, threads: int) -> Session:
        """Load a model folder and check its hash. `threads` is ignored. DeviceUnreachable without a GPU."""
        if not (folder / "model.json").exists():
            raise BadInput(f"{folder} contains no model.json, so {self._name} cannot run it", "use a model folder")
        if self._device == "cuda" and not torch.cuda.is_available():
            raise DeviceUnreachable("this machine has no usable NVIDIA GPU", "--runtime torch runs on the CPU")
        model = store.load(folder)
        module = model.module.to(self._device, torch.bfloat16).eval()
        run = self._compiler(module) if self._compiler else module
        return TorchGpuSession(run, Identity.of_model(model.info), self._device)


PLUGIN: Runtime = TorchGpu("torch-cuda")
