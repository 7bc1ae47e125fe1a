"""The one training loop.

Training is divided into equal periods. After each, the model is evaluated on the validation images of the source
domains, the best state is kept, and a checkpoint is written. A period is a deterministic function of the state at its
start, the seed and the step, so that a run resumed from a checkpoint ends with the same numbers.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from statistics import fmean

import torch
from torch import nn

from toolkit import records
from toolkit.dg import checkpoint
from toolkit.dg.batches import Batch, TrainingBatches
from toolkit.dg.checkpoint import Checkpoint, ExtensionState, Weights, copied
from toolkit.dg.evaluate import Predictions, agreement, labels_of, predictions
from toolkit.dg.image import NO_LABEL, Dataset, Image
from toolkit.dg.plan import TrainingPlan
from toolkit.dg.select import training_domain_validation
from toolkit.dg.trainer import Trainer, best_device, extended_loss
from toolkit.errors import CheckFailed
from toolkit.models.model import Model
from toolkit.progress import Progress, silent
from toolkit.recipe import Training
from toolkit.records import Evaluation, TrainingHistory


def fit(model: Model, domains: Dataset, plan: TrainingPlan, progress: Progress = silent) -> TrainingHistory:
    """Train `model.module` in place; it ends in the selected state, in evaluation mode, on the CPU. Extensions end in
    the state of the last step.

    Resumes from `plan.checkpoint` if it is of the same run (settings, seed, images, initial weights and extensions),
    and replaces it otherwise. With 0 epochs the model is only evaluated. Raises UnknownName for an unknown optimiser or
    schedule, CheckFailed if the loss is not finite or no state may be selected, StorageError if the checkpoint cannot
    be written.
    """
    run = _Fit(model, domains, plan, progress)
    with _frozen(chain.from_iterable(extension.frozen for extension in plan.extensions)):
        history = run.train() if plan.settings.epochs else run.evaluate_only()
    model.module.cpu().eval()
    return history


def total_steps(domains: Dataset, settings: Training) -> int:
    """Number of training steps: an epoch draws as many images as the training splits of the source domains hold."""
    images = sum(len(split) for split in domains.training_images().values())
    return settings.epochs * math.ceil(images / settings.batch_size)


def training_batches(model: Model, images: Dataset, plan: TrainingPlan) -> TrainingBatches:
    """The batches of all steps, with the model's preprocessing."""
    return TrainingBatches(
        images.training_images(),
        model.info,
        plan.settings,
        plan.seed,
        plan.workers,
        plan.pictures.images if plan.pictures else (),
        plan.share,
        plan.views,
    )


def evaluation_steps(total: int, evaluations: int) -> tuple[int, ...]:
    """The steps after which to evaluate: periods of equal length up to rounding, the last one at the end."""
    periods = min(evaluations, total)
    return tuple(total * period // periods for period in range(1, periods + 1))


@dataclass(frozen=True)
class _Fit:
    model: Model
    domains: Dataset
    plan: TrainingPlan
    progress: Progress
    reference_predictions: dict[str, Predictions] = field(default_factory=dict)
    """Of the validation images of each domain, by the model that the trained one is compared with."""

    def train(self) -> TrainingHistory:
        total = total_steps(self.domains, self.plan.settings)
        trainer = Trainer(self.model.module, self._batches(), self.plan, total)
        identity = self._identity(trainer.extension_states())
        state = checkpoint.load(self.plan.checkpoint, identity) or self._initial(identity, trainer)
        trainer.restore(state)
        for end in evaluation_steps(total, self.plan.settings.evaluations):
            if end > state.history.steps:
                state = self._period(trainer, state, end)
                checkpoint.save(state, self.plan.checkpoint)
                self.progress(end, total, _summary(state.history.evaluations[-1]))
        if not state.best:
            raise CheckFailed(f"{self.plan.name}: no evaluated state may be selected, not even that of the last step")
        self.model.module.load_state_dict(state.best)
        return state.history

    def evaluate_only(self) -> TrainingHistory:
        """One evaluation at step 0 without training; its loss is that of the first batches."""
        module = self.model.module.to(best_device()).eval()
        for extension in self.plan.extensions:
            if extension.modules is not None:
                extension.modules.to(best_device()).eval()
        batches = [Batch(*(part.to(best_device()) for part in batch)) for batch in next(self._batches().steps(0, 1))]
        started = time.monotonic()
        with torch.no_grad():
            loss = extended_loss(self.plan, 0, module, batches)
        evaluation = self._evaluate(0, loss.item())
        self.progress(0, 0, _summary(evaluation))
        return TrainingHistory(self.plan.name, 0, time.monotonic() - started, (evaluation,), 0)

    def _initial(self, identity: str, trainer: Trainer) -> Checkpoint:
        history = TrainingHistory(self.plan.name, 0, 0.0, (), 0)
        states = trainer.extension_states()
        return Checkpoint(identity, history, copied(self.model.module), {}, trainer.optimizer_state(), states)

    def _period(self, trainer: Trainer, state: Checkpoint, end: int) -> Checkpoint:
        """Train to step `end`, evaluate, and select the better of the best state so far and this one."""
        started = time.monotonic()
        history = state.history
        loss = trainer.run(history.steps, end, self.progress)
        current = copied(self.model.module)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in current.values()):
            raise CheckFailed(f"training diverged: at step {end} some weights are not finite", "lower --learning-rate")
        candidate = reduce(lambda tensors, extension: extension.evaluated(tensors), self.plan.extensions, current)
        with self._loaded(candidate, current):
            evaluation = self._evaluate(end, loss)
        selected, best = history.selected_step, state.best
        if all(extension.may_select(end) for extension in self.plan.extensions):
            so_far = [item for item in history.evaluations if best and item.step == selected]
            selected = training_domain_validation([*so_far, evaluation]).step
            best = candidate if selected == end else best
        history = replace(
            history,
            steps=end,
            seconds=history.seconds + time.monotonic() - started,
            evaluations=(*history.evaluations, evaluation),
            selected_step=selected,
        )
        return Checkpoint(state.identity, history, current, best, trainer.optimizer_state(), trainer.extension_states())

    @contextmanager
    def _loaded(self, weights: Weights, current: Weights) -> Iterator[None]:
        """These weights in the module; the current ones are restored on exit."""
        if weights is not current:
            self.model.module.load_state_dict(weights)
        yield
        if weights is not current:
            self.model.module.load_state_dict(current)

    def _evaluate(self, step: int, loss: float) -> Evaluation:
        accuracy, agreements = {}, {}
        for name, images in self.domains.selection_images().items():
            predicted = self._predictions(self.model, images)
            if images[0].label != NO_LABEL:
                accuracy[name] = agreement(predicted, labels_of(images))
            if (expected := self._expected(name, images)) is not None:
                agreements[name] = agreement(predicted, expected)
        return Evaluation(step, loss, accuracy, agreements)

    def _expected(self, domain: str, images: Sequence[Image]) -> Predictions | None:
        """Predictions of the model that an extension compares with, if there is one."""
        reference = next((extension.reference for extension in self.plan.extensions if extension.reference), None)
        if reference is not None and domain not in self.reference_predictions:
            reference.module.to(best_device())
            self.reference_predictions[domain] = self._predictions(reference, images)
        return self.reference_predictions.get(domain)

    def _predictions(self, model: Model, images: Sequence[Image]) -> Predictions:
        return predictions(model.module, images, model.info, self.plan.settings.batch_size, self.plan.workers)

    def _batches(self) -> TrainingBatches:
        return training_batches(self.model, self.domains, self.plan)

    def _identity(self, extensions: Sequence[ExtensionState]) -> str:
        """Hash of everything that determines the result of training, except the code."""
        plan = self.plan
        digest = hashlib.sha256()
        for text in (
            plan.settings.model_dump_json(),
            str(plan.seed),
            self.domains.fingerprint(),
            self.plan.pictures.fingerprint() if self.plan.pictures else "",
            records.dumps(self.model.info),
            *(extension.name for extension in plan.extensions),
        ):
            digest.update(text.encode())
        tensors = [state[part] for state in extensions for part in ("modules", "state")]
        for name, tensor in chain(self.model.module.state_dict().items(), *(part.items() for part in tensors)):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Exclude parameters from training inside the context."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _summary(evaluation: Evaluation) -> str:
    kinds = {"validation accuracy": evaluation.accuracy, "agreement with the teacher": evaluation.agreement}
    parts = [
        f"{kind} {fmean(values.values()):.1%} ({', '.join(f'{name} {value:.1%}' for name, value in values.items())})"
        for kind, values in kinds.items()
        if values
    ]
    return ", ".join([f"loss {evaluation.train_loss:.3f}", *parts])
