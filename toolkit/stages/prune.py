"""prune: a plan for the dense model, and the slim model that it yields."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import recipe, records
from toolkit.errors import RecipeError
from toolkit.progress import Progress
from toolkit.records import DENSE, ModelInfo, PrunePlan, TrainingHistory
from toolkit.report import plan_text
from toolkit.stages import PRUNED, Output, Run, Stage, inputs_of, latency_budget

if TYPE_CHECKING:
    from toolkit.dg.extensions import TrainingExtension
    from toolkit.models.model import Model
    from toolkit.prune.calibration import Calibration
    from toolkit.prune.methods import Train

SOURCE = "source"
"""Folder inside the result with the model that the plan's indices refer to, if it is not the dense model."""

CALIBRATION_BATCH = 32
"""Batch size of calibration images; scores do not depend on it."""


class Prune(Stage):
    name = "prune"
    needs = ("train",)

    def check(self, run: Run) -> None:
        check_names(run.recipe.prune)
        check_support(run)

    def check_data(self, run: Run) -> None:
        if not run.has_dense:
            check_model(run)

    def outputs(self, run: Run) -> list[Output]:
        return [output(run, PRUNED)]

    def record(self, run: Run) -> PrunePlan:
        return run.folder.read(PRUNED, "plan.json", PrunePlan)

    def summary_lines(self, run: Run) -> list[str]:
        return summary(run, PRUNED)


def check_names(settings: recipe.Prune) -> None:
    """Raise UnknownName for an unknown plug-in, MissingDependency for one without a package that it needs, RecipeError
    for a budget that cannot be read."""
    from toolkit.prune.bases import basis
    from toolkit.prune.budget import budget_of
    from toolkit.prune.compensate import compensation
    from toolkit.prune.criteria import criterion
    from toolkit.prune.methods import method
    from toolkit.prune.scopes import scope

    method(settings.method, settings.own(settings.method))
    criterion(settings.criterion, settings.own(settings.criterion))
    scope(settings.scope, settings.own(settings.scope))
    basis(settings.basis, settings.own(settings.basis))
    compensation(settings.compensation, settings.own(settings.compensation))
    budget_of(settings)


def check_support(run: Run) -> None:
    """Raise BadInput for settings that the method does not support, and the error of a latency budget that cannot be
    measured."""
    from toolkit.prune.budget import budget_of
    from toolkit.prune.methods import check_quantity, method

    settings = run.recipe.prune
    chosen = method(settings.method, settings.own(settings.method))
    if chosen.trains and not run.recipe.train.epochs:
        raise RecipeError(
            f"prune.method {settings.method!r} trains the model, but train.epochs is 0", "set --epochs for train"
        )
    chosen.check(settings)
    check_quantity(settings.method, budget_of(settings))
    latency_budget.check(run)


def check_model(run: Run) -> None:
    """Raise, before training, UnsupportedModel if the basis is not for this architecture, and BudgetError if the
    architecture cannot achieve the budget."""
    from toolkit.models.build import outline
    from toolkit.prune.bases import basis
    from toolkit.prune.methods import method

    settings = run.recipe.prune
    model = outline(run.recipe.model, run.domains.classes)
    basis(settings.basis, settings.own(settings.basis)).check(model)
    method(settings.method, settings.own(settings.method)).check_budget(model, settings)


def output(run: Run, result: str) -> Output:
    """The slim model of the run's settings as the result of this name."""
    from toolkit.prune.methods import method

    inputs = {
        "dense": run.identity_of(DENSE),
        "images": run.images_of(DENSE),
        "data": run.domains.fingerprint(),
        **inputs_of("prune", latency_budget.effective(run.recipe.prune)),
        **latency_budget.inputs(run),
        "seed": str(run.recipe.seed),
    }
    if method(run.recipe.prune.method).trains:
        inputs |= inputs_of("train", run.recipe.train)
    return Output(result, inputs, lambda out: _prune(run, result, inputs, out))


def summary(run: Run, result: str) -> list[str]:
    """Budget and sizes of a pruned model, for the user."""
    dense, slim = (run.folder.read(model, "model.json", ModelInfo) for model in (DENSE, result))
    plan = run.folder.read(result, "plan.json", PrunePlan)
    macs = f"{dense.macs / 1e6:,.0f} -> {slim.macs / 1e6:,.0f} M MACs ({slim.macs / dense.macs:.1%})"
    parameters = f"{dense.parameters:,} -> {slim.parameters:,} parameters ({slim.parameters / dense.parameters:.1%})"
    lines = [f"{plan.method}, {plan.budget} requested, {plan.achieved:.3f} achieved: {macs}, {parameters}"]
    return lines if plan.latency is None else [*lines, plan_text.latency(plan.latency)]


def _prune(run: Run, result: str, inputs: dict[str, str], out: Path) -> None:
    from toolkit.models import store
    from toolkit.prune.methods import Job
    from toolkit.prune.pruning import prune

    dense = store.load(run.folder.path / DENSE)
    with run.progress("prune") as progress, latency_budget.meter(run, out, progress) as meter:
        scratch = partial(run.folder.scratch, result, inputs)
        train, calibration = _training(run, scratch, out, progress), calibration_of(run, dense)
        job = Job(run.recipe.prune, calibration, run.recipe.seed, train, progress, meter, scratch)
        pruned = prune(dense, job)
    if pruned.source is not dense:
        pruned.source.save(out / SOURCE)
    records.save(pruned.plan, out / "plan.json")
    pruned.slim.save(out)


def calibration_of(run: Run, dense: Model) -> Calibration:
    """`prune.samples` training images of the source domains, decoded as the dense model expects them."""
    from toolkit.dg.batches import Batch, calibration_batches, calibration_images
    from toolkit.prune.calibration import Calibration

    images, seed = run.domains.training_images(), run.recipe.seed
    drawn = calibration_images(images, run.recipe.prune.samples, seed)

    def read(domains: Sequence[str]) -> Sequence[Batch]:
        return calibration_batches({name: drawn[name] for name in domains}, dense.info, CALIBRATION_BATCH)

    return Calibration(read, tuple(images), seed, run.recipe.prune.aggregate)


def _training(run: Run, scratch: Callable[[], Path], out: Path, progress: Progress) -> Train:
    """`Job.train` with the settings of `train`; each call has its own checkpoint in `scratch`, and its own history in
    `out`."""
    from toolkit.dg import objectives
    from toolkit.dg.fit import fit
    from toolkit.dg.plan import TrainingPlan

    recipe, calls = run.recipe, itertools.count()

    def train(model: Model, extension: TrainingExtension) -> TrainingHistory:
        call = next(calls)
        checkpoint = scratch() / f"checkpoint-{call}.pt"
        objective, workers = objectives.build(recipe.train), recipe.data.workers
        plan = TrainingPlan(recipe.train, objective, recipe.seed, checkpoint, workers, (extension,))
        history = fit(model, run.domains, plan, progress)
        records.save(history, out / f"history-{call}.json")
        return history

    return train
