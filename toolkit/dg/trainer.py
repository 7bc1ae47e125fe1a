"""Training steps between two evaluations: forward, backward and update on one device, with Lightning Fabric."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from typing import Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from toolkit.dg.batches import Batch, TrainingBatches
from toolkit.dg.checkpoint import Checkpoint, ExtensionState, copied
from toolkit.dg.in_float32 import InFloat32
from toolkit.dg.objectives import Classifier
from toolkit.dg.optimise import add_group, build_optimizer, build_schedule
from toolkit.dg.plan import TrainingPlan
from toolkit.errors import CheckFailed
from toolkit.models import native
from toolkit.progress import Progress

LOG = logging.getLogger(__name__)


class Trainer:
    """A module with its extensions, optimiser and learning-rate schedule, on the best available device."""

    def __init__(self, module: nn.Module, batches: TrainingBatches, plan: TrainingPlan, total: int) -> None:
        self.settings = plan.settings
        self.plan = plan
        self.batches = batches
        self.total = total
        precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed" if self.settings.precision == "bf16" else "32-true"
        self._fabric = Fabric(accelerator="auto", devices=1, precision=precision)
        self._module = module
        self._plain_optimizer = build_optimizer(module, self.settings)
        self._extra = [extension.modules for extension in plan.extensions if extension.modules is not None]
        for extension in plan.extensions:
            if extension.modules is not None:
                self._fabric.to_device(extension.modules)
                add_group(self._plain_optimizer, extension.modules.parameters(), extension.learning_rate)
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
        for extension, content in zip(self.plan.extensions, state.extensions, strict=True):
            if extension.modules is not None:
                extension.modules.load_state_dict(content["modules"])
            extension.restore(content["state"])

    def optimizer_state(self) -> dict[str, object]:
        """A copy of the optimiser's state; torch returns references that the next step would change."""
        return copy.deepcopy(self._plain_optimizer.state_dict())

    def extension_states(self) -> list[ExtensionState]:
        """A copy of each extension's state."""
        return [
            {"modules": {} if extension.modules is None else copied(extension.modules), "state": extension.state()}
            for extension in self.plan.extensions
        ]

    def run(self, first: int, end: int, progress: Progress) -> float:
        """Run the steps [first, end) and return their mean loss.

        Raises CheckFailed if a loss is not finite; the weights are then unusable, the last checkpoint is not affected.
        """
        self._set_mode(training=True)
        total_loss = 0.0
        with _seeded(self._fabric.device, self.plan.seed, first):
            for step, batches in enumerate(self.batches.steps(first, end), start=first):
                total_loss += self._step(step, batches)
                progress(step + 1, self.total)
        self._set_mode(training=False)
        return total_loss / (end - first)

    def _step(self, step: int, batches: tuple[Batch, ...]) -> float:
        self._schedule.step_update(step)
        on_device = [Batch(*self._fabric.to_device(tuple(batch))) for batch in batches]
        loss = extended_loss(self.plan, step, self._model, on_device)
        value = loss.item()
        if not math.isfinite(value):
            raise CheckFailed(
                f"training diverged: the loss is {value} at step {step + 1} of {self.total}",
                "lower --learning-rate, set --clip-grad, or train with --precision fp32",
            )
        self._optimizer.zero_grad()
        self._fabric.backward(loss)
        if self.settings.clip_grad is not None:
            self._clip_gradients(self.settings.clip_grad)
        with self._update_context:
            self._optimizer.step()
        for extension in self.plan.extensions:
            extension.after_step(step)
        return value

    def _clip_gradients(self, max_norm: float) -> None:
        """Clip the gradients of the model and of each extension by their own norms.

        Non-finite gradients are detected in the next loss, which reports the step.
        """
        groups = [group["params"] for group in self._plain_optimizer.param_groups]
        own = len(groups) - len(self._extra)
        for parameters in (list(chain(*groups[:own])), *groups[own:]):
            clip_grad_norm_(parameters, max_norm, error_if_nonfinite=False)

    def _set_mode(self, training: bool) -> None:
        for module in (self._model, *self._extra):
            module.train(training)


def extended_loss(plan: TrainingPlan, step: int, model: Classifier, batches: Sequence[Batch]) -> Tensor:
    """The loss of the objective, changed by each extension in turn."""
    with ExitStack() as stack:
        for extension in plan.extensions:
            batches = extension.batches(step, batches)
            stack.enter_context(extension.observing())
        loss, logits = plan.objective(model, batches)
    for extension in plan.extensions:
        loss = extension.loss(step, model, batches, loss, logits)
    return loss


def best_device() -> torch.device:
    """The device that Lightning Fabric selects: a GPU if there is one."""
    return Fabric(accelerator="auto", devices=1).device


@contextmanager
def _seeded(device: torch.device, seed: int, step: int) -> Iterator[None]:
    """Seed torch's generators (dropout, drop path) by seed and step; restores the caller's state afterwards."""
    devices = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        sequence = np.random.SeedSequence(seed, spawn_key=(step,))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        yield
