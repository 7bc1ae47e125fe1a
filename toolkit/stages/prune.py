"""prune: a plan for the dense model, and the slim model that it yields."""

from __future__ import annotations

from pathlib import Path

from toolkit import records
from toolkit.records import DENSE, ModelInfo, PrunePlan
from toolkit.stages import PRUNED, Output, Run, Stage, inputs_of

CALIBRATION_BATCH = 32
"""Batch size of calibration images; scores do not depend on it."""


class Prune(Stage):
    name = "prune"
    needs = ("train",)

    def check(self, run: Run) -> None:
        from toolkit.prune.budget import budget_of
        from toolkit.prune.criteria import criterion
        from toolkit.prune.methods import method
        from toolkit.prune.scopes import scope

        settings = run.recipe.prune
        method(settings.method, settings.own(settings.method))
        criterion(settings.criterion, settings.own(settings.criterion))
        scope(settings.scope, settings.own(settings.scope))
        budget_of(settings)

    def check_data(self, run: Run) -> None:
        if not run.has_dense:
            _check_budget(run)

    def outputs(self, run: Run) -> list[Output]:
        inputs = {
            "dense": run.weights_of(DENSE),
            "images": run.images_of(DENSE),
            "data": run.domains.fingerprint(),
            **inputs_of("prune", run.recipe.prune),
            "seed": str(run.recipe.seed),
        }
        return [Output(PRUNED, inputs, lambda out: _prune(run, out))]

    def record(self, run: Run) -> PrunePlan:
        return run.folder.read(PRUNED, "plan.json", PrunePlan)

    def summary_lines(self, run: Run) -> list[str]:
        dense, slim = (run.folder.read(result, "model.json", ModelInfo) for result in (DENSE, PRUNED))
        plan = self.record(run)
        macs = f"{dense.macs / 1e6:,.0f} -> {slim.macs / 1e6:,.0f} M MACs ({slim.macs / dense.macs:.1%})"
        parameters = (
            f"{dense.parameters:,} -> {slim.parameters:,} parameters ({slim.parameters / dense.parameters:.1%})"
        )
        return [f"{plan.budget} requested, {plan.achieved:.3f} achieved: {macs}, {parameters}"]


def _check_budget(run: Run) -> None:
    """Raise BudgetError before training if this architecture cannot achieve the budget."""
    from toolkit.models.build import outline
    from toolkit.prune.budget import budget_of
    from toolkit.prune.fill_budget import check_reachable
    from toolkit.prune.scopes import Constraints, scope

    settings = run.recipe.prune
    model = outline(run.recipe.model, run.domains.classes)
    constraints = Constraints(model.groups.along(settings.axes), model.cost_model, settings.round_to)
    ranking = scope(settings.scope, settings.own(settings.scope))
    check_reachable(ranking, budget_of(settings), constraints, settings.steps)


def _prune(run: Run, out: Path) -> None:
    from toolkit.dg.batches import Batch, calibration_batches
    from toolkit.models import store, surgery
    from toolkit.prune.criteria import Calibration
    from toolkit.prune.methods import Job, method

    settings, seed = run.recipe.prune, run.recipe.seed
    dense = store.load(run.folder.path / DENSE)

    def load() -> list[Batch]:
        images = run.domains.training_images()
        return calibration_batches(images, dense.info, settings.samples, CALIBRATION_BATCH, seed)

    with run.progress("prune") as progress:
        pruning = method(settings.method, settings.own(settings.method))
        plan = pruning.prune(dense, Job(settings, Calibration(load, seed), progress))
    slim = surgery.remove(dense, plan.cuts).model
    records.save(plan, out / "plan.json")
    store.save(slim, out)
