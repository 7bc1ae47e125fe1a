"""train: a dense model for the data's classes, trained on the source domains."""

from __future__ import annotations

from pathlib import Path

from toolkit import hashing, records
from toolkit.errors import ToolkitError, UnknownName, WeightsError
from toolkit.recipe import Training
from toolkit.records import DENSE, ModelInfo, TrainingHistory
from toolkit.stages import Run, Stage, Unit, hash_of


class Train(Stage):
    name = "train"

    def check(self, run: Run) -> None:
        from toolkit.models.source import known_models

        known = known_models()
        if run.recipe.model.name.partition(".")[0] not in known:
            raise UnknownName("model", run.recipe.model.name, known)
        check_training(run.recipe.train)

    def units(self, run: Run) -> list[Unit]:
        recipe = run.recipe
        inputs = {
            "data": run.domains.fingerprint(),
            "model": hash_of(recipe.model),
            "train": hash_of(recipe.train),
            "seed": str(recipe.seed),
        }
        weights, made = Path(recipe.model.weights).expanduser(), run.folder.stage(DENSE)
        if weights.is_file():
            inputs["weights"] = hashing.sha256(weights)
        elif made and made.inputs.get("model") == inputs["model"] and "weights" in made.inputs:
            # What was made from a file stays good when the file is gone.
            inputs["weights"] = made.inputs["weights"]
        return [Unit(DENSE, inputs, lambda out: _train(run, inputs, out))]

    def record(self, run: Run) -> ModelInfo:
        return run.folder.read(DENSE, "model.json", ModelInfo)

    def told(self, run: Run) -> list[str]:
        broken = run.domains.broken
        left_out = [f"{len(broken)} broken images left out: {', '.join(broken[:5])}"] if broken else []
        return [*left_out, describe(run, DENSE)]


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
    checkpoint = run.folder.work(DENSE, inputs) / "checkpoint.pt"
    plan = TrainingPlan(recipe.train, objectives.build(recipe.train), recipe.seed, checkpoint, recipe.data.workers)
    with run.shown("train") as report:
        history = fit(model, domains, plan, report)
    records.save(history, out / "history.json")
    source.save(model.module, model.info, out)


def check_training(settings: Training) -> None:
    """Raise UnknownName for an objective, optimiser or schedule, which a single weight is enough to find out."""
    from torch import nn

    from toolkit.dg import objectives, optimise

    objectives.build(settings)
    if settings.epochs:
        optimise.build_schedule(optimise.build_optimizer(nn.Linear(1, 1), settings), settings, steps=1)


def describe(run: Run, result: str) -> str:
    """Accuracies of the kept state, in one line."""
    history = run.folder.read(result, "history.json", TrainingHistory)
    each = ", ".join(f"{domain} {accuracy:.1%}" for domain, accuracy in accuracies(run, result).items())
    return f"step {history.selected_step} of {history.steps} kept; on the validation images: {each}"


def accuracies(run: Run, result: str) -> dict[str, float]:
    """Of the kept state, by source domain, on the validation images."""
    history = run.folder.read(result, "history.json", TrainingHistory)
    kept = next((found for found in history.evaluations if found.step == history.selected_step), None)
    if kept is None:
        raise ToolkitError(f"{result}/history.json has no evaluation at its selected step {history.selected_step}")
    return kept.accuracy
