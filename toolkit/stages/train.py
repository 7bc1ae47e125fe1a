"""train: a dense model for the data's classes, trained on the source domains."""

from __future__ import annotations

import shutil
from pathlib import Path

from toolkit import progress, records
from toolkit.errors import ToolkitError, WeightsError
from toolkit.records import ModelInfo, TrainingHistory
from toolkit.stages import DENSE, Run, Stage, Unit, hash_of


class Train(Stage):
    name = "train"

    def units(self, run: Run) -> list[Unit]:
        recipe = run.recipe
        inputs = {
            "data": run.domains.fingerprint(),
            "model": hash_of(recipe.model),
            "train": hash_of(recipe.train),
            "seed": str(recipe.seed),
        }
        weights = Path(recipe.model.weights)
        if weights.is_file():
            inputs["weights"] = records.sha256(weights)
        return [Unit(DENSE, inputs, lambda out: _train(run, inputs, out))]

    def record(self, run: Run) -> ModelInfo:
        return run.folder.read(DENSE, "model.json", ModelInfo)

    def told(self, run: Run) -> list[str]:
        return [describe(run, DENSE)]


def _train(run: Run, inputs: dict[str, str], out: Path) -> None:
    from toolkit.dg import objectives
    from toolkit.dg.fit import TrainingPlan, fit
    from toolkit.models import source

    recipe, domains = run.recipe, run.domains
    model = source.build(recipe.model, domains.classes, recipe.seed)
    if recipe.train.epochs == 0 and model.fresh and recipe.model.weights != "none":
        raise WeightsError(
            f"with 0 epochs the model is taken as it is, but it is not trained for these "
            f"{len(domains.classes)} classes: {', '.join(model.fresh)} would be random",
            "train it (--epochs), or give weights of a model for exactly these classes",
        )
    work = run.folder.work(DENSE, inputs)
    objective = objectives.build(recipe.train)
    plan = TrainingPlan(recipe.train, objective, recipe.seed, work / "checkpoint.pt", recipe.data.workers)
    with progress.shown("train") as report:
        history = fit(model, domains, plan, report)
    records.save(history, out / "history.json")
    source.save(model.module, model.info, out)
    shutil.rmtree(work)


def describe(run: Run, result: str) -> str:
    """Accuracies of the kept state, in one line."""
    history = run.folder.read(result, "history.json", TrainingHistory)
    kept = next((found for found in history.evaluations if found.step == history.selected_step), None)
    if kept is None:
        raise ToolkitError(f"{result}/history.json has no evaluation at its selected step {history.selected_step}")
    accuracies = ", ".join(f"{domain} {accuracy:.1%}" for domain, accuracy in kept.accuracy.items())
    return f"step {history.selected_step} of {history.steps} kept; held-out images of the source domains: {accuracies}"
