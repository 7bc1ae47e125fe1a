"""Training steps between two evaluations: forward, backward and update on one device, with Lightning Fabric."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from toolkit.dg.batches import Batch, TrainingBatches
from toolkit.dg.checkpoint import Checkpoint, Weights
from toolkit.dg.in_float32 import InFloat32
from toolkit.dg.objectives import Objective
from toolkit.dg.optimise import build_optimizer, build_schedule
from toolkit.errors import CheckFailed
from toolkit.models import native
from toolkit.progress import Progress

LOG = logging.getLogger(__name__)


class Trainer:
    """A module with its optimiser and learning-rate schedule, on the best available device."""

    def __init__(self, module: nn.Module, batches: TrainingBatches, objective: Objective, total: int) -> None:
        self.settings = batches.settings
        self.batches = batches
        self.objective = objective
        self.total = total
        precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed" if self.settings.precision == "bf16" else "32-true"
        self._fabric = Fabric(accelerator="auto", devices=1, precision=precision)
        self._module = module
        self._plain_optimizer = build_optimizer(module, self.settings)
        self._schedule = build_schedule(self._plain_optimizer, self.settings, total)
        self._model, self._optimizer = self._fabric.setup(module, self._plain_optimizer)
        emulates = self._fabric.device.type == "cpu" and native.emulated("bf16")
        if emulates and precision != "32-true":
            LOG.warning("this CPU emulates bfloat16: training in bf16 is slower than in fp32 (--precision fp32)")
        self._update_context = InFloat32(self.settings.optimizer) if emulates else nullcontext()

    def restore(self, state: Checkpoint) -> None:
        """Restore the state of a checkpoint; the schedule depends on the step only."""
        self._module.load_state_dict(state.module)
        self._plain_optimizer.load_state_dict(state.optimizer)

    def optimizer_state(self) -> dict[str, object]:
        """A copy of the optimiser's state; torch returns references that the next step would change."""
        return copy.deepcopy(self._plain_optimizer.state_dict())

    def run(self, first: int, end: int, progress: Progress) -> float:
        """Run the steps [first, end) and return their mean loss.

        Raises CheckFailed if a loss is not finite; the weights are then unusable, the last checkpoint is not affected.
        """
        self._model.train()
        total_loss = 0.0
        with _seeded(self._fabric.device, self.batches.seed, first):
            for step, batches in enumerate(self.batches.steps(first, end), start=first):
                total_loss += self._step(step, batches)
                progress(step + 1, self.total)
        self._model.eval()
        return total_loss / (end - first)

    def _step(self, step: int, batches: tuple[Batch, ...]) -> float:
        self._schedule.step_update(step)
        on_device = [Batch(*self._fabric.to_device(tuple(batch))) for batch in batches]
        loss, _ = self.objective(self._model, on_device)
        value = loss.item()
        if not math.isfinite(value):
            raise CheckFailed(
                f"training diverged: the loss is {value} at step {step + 1} of {self.total}",
                "lower --learning-rate, set --clip-grad, or train with --precision fp32",
            )
        self._optimizer.zero_grad()
        self._fabric.backward(loss)
        if self.settings.clip_grad is not None:
            # Non-finite gradients are detected in the next loss, which reports the step.
            self._fabric.clip_gradients(
                self._model, self._optimizer, max_norm=self.settings.clip_grad, error_if_nonfinite=False
            )
        with self._update_context:
            self._optimizer.step()
        return value


def best_device() -> torch.device:
    """The device that Lightning Fabric selects: a GPU if there is one."""
    return Fabric(accelerator="auto", devices=1).device


def weights(module: nn.Module) -> Weights:
    """A copy of the module's state dict on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}


@contextmanager
def _seeded(device: torch.device, seed: int, step: int) -> Iterator[None]:
    """Seed torch's generators (dropout, drop path) by seed and step; restores the caller's state afterwards."""
    devices = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        sequence = np.random.SeedSequence(seed, spawn_key=(step,))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        yield
