"""The one training loop.

Training is cut into periods of equal length. After each, the validation images of the source domains are evaluated, the
best state is kept, and a checkpoint is written. What happens in a period follows from the state at its beginning, the
seed and the step, so a training that was killed goes on from its checkpoint and ends with the same numbers.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from toolkit import records
from toolkit.dg import checkpoint
from toolkit.dg.batches import Batch, TrainingBatches
from toolkit.dg.checkpoint import Checkpoint
from toolkit.dg.domains import Domains
from toolkit.dg.evaluate import accuracy
from toolkit.dg.objectives import Objective
from toolkit.dg.select import source_accuracy, training_domain_validation
from toolkit.dg.trainer import Trainer, best_device, weights
from toolkit.errors import CheckFailed
from toolkit.models.model import Model
from toolkit.progress import Progress, silent
from toolkit.recipe import Training
from toolkit.records import Evaluation, TrainingHistory


@dataclass(frozen=True)
class TrainingPlan:
    """How a model is to be trained, beside what it is and what it learns from."""

    settings: Training
    objective: Objective
    seed: int
    checkpoint: Path
    """Written after each evaluation, and read again by a later call. The caller removes it."""
    workers: int | None = None
    """Processes that load images (recipe.Data.workers)."""
    taught: bool = False
    """Whether the objective also learns from a teacher; the history says so."""

    @property
    def name(self) -> str:
        """What is minimised, in a user's words."""
        return f"{self.settings.objective} and distillation" if self.taught else self.settings.objective


def fit(model: Model, domains: Domains, plan: TrainingPlan, report: Progress = silent) -> TrainingHistory:
    """Train `model.module` in place and leave it in the selected state, in evaluation mode, on the CPU.

    Goes on from `plan.checkpoint` where that file is from the same training (settings, seed, images, initial weights),
    and replaces it where it is from another. With no epochs the model is only evaluated. Raises UnknownName for an
    optimiser or schedule, CheckFailed when the loss is no longer finite, StorageError when the disk refuses.
    """
    work = _Fit(model, domains, plan, report)
    history = work.train() if plan.settings.epochs else work.look()
    model.module.cpu().eval()
    return history


def steps_of(domains: Domains, settings: Training) -> int:
    """Steps of the whole training: an epoch takes as many images as the source domains' training parts hold."""
    images = sum(len(part) for part in domains.training_images().values())
    return settings.epochs * math.ceil(images / settings.batch_size)


def ends_of_periods(total: int, evaluations: int) -> tuple[int, ...]:
    """The steps after which to evaluate: as equal periods as can be, the last one ends with training."""
    periods = min(evaluations, total)
    return tuple(total * period // periods for period in range(1, periods + 1))


@dataclass(frozen=True)
class _Fit:
    model: Model
    domains: Domains
    plan: TrainingPlan
    report: Progress

    def train(self) -> TrainingHistory:
        total = steps_of(self.domains, self.plan.settings)
        trainer = Trainer(self.model.module, self._batches(), self.plan.objective, total)
        identity = self._identity()
        state = checkpoint.load(self.plan.checkpoint, identity) or self._beginning(identity, trainer)
        trainer.restore(state)
        for end in ends_of_periods(total, self.plan.settings.evaluations):
            if end > state.history.steps:
                state = self._period(trainer, state, end)
                checkpoint.save(state, self.plan.checkpoint)
                self.report(end, total, _told(state.history.evaluations[-1]))
        self.model.module.load_state_dict(state.best)
        return state.history

    def look(self) -> TrainingHistory:
        """No training: one evaluation at step 0, whose loss is that of the first batches."""
        module = self.model.module.to(best_device()).eval()
        images = [Batch(*(part.to(best_device()) for part in batch)) for batch in next(self._batches().steps(0, 1))]
        started = time.monotonic()
        with torch.no_grad():
            loss, _ = self.plan.objective(module, images)
        evaluation = self._evaluate(0, loss.item())
        self.report(0, 0, _told(evaluation))
        return TrainingHistory(self.plan.name, 0, time.monotonic() - started, (evaluation,), 0)

    def _beginning(self, identity: str, trainer: Trainer) -> Checkpoint:
        history = TrainingHistory(self.plan.name, 0, 0.0, (), 0)
        return Checkpoint(identity, history, weights(self.model.module), {}, trainer.optimizer_state())

    def _period(self, trainer: Trainer, state: Checkpoint, end: int) -> Checkpoint:
        """Train on to step `end`, evaluate there, and keep the better of the best state and this one."""
        started = time.monotonic()
        history = state.history
        loss = trainer.run(history.steps, end, self.report)
        evaluations = (*history.evaluations, self._evaluate(end, loss))
        selected = training_domain_validation(evaluations).step
        now = weights(self.model.module)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in now.values()):
            raise CheckFailed(f"training diverged: at step {end} some weights are not finite", "lower --learning-rate")
        history = replace(
            history,
            steps=end,
            seconds=history.seconds + time.monotonic() - started,
            evaluations=evaluations,
            selected_step=selected,
        )
        best = now if selected == end else state.best
        return Checkpoint(state.identity, history, now, best, trainer.optimizer_state())

    def _evaluate(self, step: int, loss: float) -> Evaluation:
        size, workers = self.plan.settings.batch_size, self.plan.workers
        return Evaluation(
            step=step,
            train_loss=loss,
            accuracy={
                name: accuracy(self.model.module, images, self.model.info, size, workers)
                for name, images in self.domains.selection_images().items()
            },
        )

    def _batches(self) -> TrainingBatches:
        parts = self.domains.training_images()
        return TrainingBatches(parts, self.model.info, self.plan.settings, self.plan.seed, self.plan.workers)

    def _identity(self) -> str:
        """Hash of all that decides how this training goes, but for the code."""
        plan = self.plan
        digest = hashlib.sha256()
        for text in (
            plan.settings.model_dump_json(),
            str(plan.seed),
            self.domains.fingerprint(),
            records.dumps(self.model.info),
        ):
            digest.update(text.encode())
        for name, tensor in self.model.module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _told(evaluation: Evaluation) -> str:
    each = ", ".join(f"{domain} {share:.1%}" for domain, share in evaluation.accuracy.items())
    return f"loss {evaluation.train_loss:.3f}, validation accuracy {source_accuracy(evaluation):.1%} ({each})"
