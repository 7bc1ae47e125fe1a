"""train: a dense model for the dataset's classes, trained on the source domains."""

from __future__ import annotations

from pathlib import Path

from toolkit import hashing, records
from toolkit.errors import RecipeError, ToolkitError, WeightsError
from toolkit.recipe import Training
from toolkit.records import DENSE, ModelInfo, TrainingHistory
from toolkit.stages import Output, Run, Stage, hash_of, inputs_of


class Train(Stage):
    name = "train"

    def check(self, run: Run) -> None:
        from toolkit.dg.extensions.teaching import teacher_plugin
        from toolkit.models.architectures import source_of
        from toolkit.models.preprocessing import preprocessing_of
        from toolkit.models.weight_file import file_exists, weights_files
        from toolkit.models.weight_formats import format_of

        model = run.recipe.model
        source_of(model.name).check_name(model.name)
        if model.weights_key is not None and model.weights in ("hub", "none"):
            raise RecipeError(f"model.weights_key is for a file, not for weights {model.weights!r}", "--weights FILE")
        files = weights_files(model)
        if len(files) == 1 and (file_exists(files[0]) or not run.has_dense):  # a trained result needs no weights file
            format_of(files[0])
        preprocessing_of(model)
        check_training(run.recipe.train)
        if teacher_plugin(run.recipe.train):
            raise RecipeError(
                f"train.objective {run.recipe.train.objective!r} learns from the dense model, which is to be trained",
                f"finetune.objective: {run.recipe.train.objective}",
            )
        if not run.has_dense:
            _ = run.outline  # takes seconds, and errors appear before training

    def outputs(self, run: Run) -> list[Output]:
        from toolkit.models import huggingface_folder, preprocessing, weight_file

        recipe = run.recipe
        inputs = {
            "data": run.domains.fingerprint(),
            "model": hash_of(recipe.model),
            **inputs_of("train", recipe.train),
            "seed": str(recipe.seed),
        }
        weights, stage = weight_file.weights_files(recipe.model), run.folder.stage(DENSE)
        if weights and all(map(weight_file.file_exists, weights)):
            hashes = [
                weight_file.sha256(file) for file in (*weights, *huggingface_folder.config_files(recipe.model.name))
            ]
            inputs["weights"] = hashes[0] if len(hashes) == 1 else hashing.digest(hashes)
            if adjacent := preprocessing.adjacent_file(recipe.model):
                inputs["preprocessing"] = weight_file.sha256(adjacent[0])
        elif stage and stage.inputs.get("model") == inputs["model"]:
            # A result stays valid if the weights file was deleted.
            inputs |= {name: stage.inputs[name] for name in ("weights", "preprocessing") if name in stage.inputs}
        note = f"images: {preprocessing.preprocessing_of(recipe.model)}"
        return [Output(DENSE, inputs, lambda out: _train(run, inputs, out), (note,))]

    def record(self, run: Run) -> ModelInfo:
        return run.folder.read(DENSE, "model.json", ModelInfo)

    def summary_lines(self, run: Run) -> list[str]:
        return [describe(run, DENSE)]


def _train(run: Run, inputs: dict[str, str], out: Path) -> None:
    from toolkit.dg import objectives
    from toolkit.dg.fit import fit
    from toolkit.dg.plan import TrainingPlan
    from toolkit.dg.summary import summarise
    from toolkit.models.build import build

    recipe, domains = run.recipe, run.domains
    model = build(recipe.model, domains.classes, recipe.seed)
    if recipe.train.epochs == 0 and model.fresh and recipe.model.weights != "none":
        raise WeightsError(
            f"with 0 epochs the model is used unchanged, but it is not trained for these "
            f"{len(domains.classes)} classes: {', '.join(model.fresh)} would be random",
            "train it (--epochs), or give weights of a model for exactly these classes",
        )
    checkpoint = run.folder.scratch(DENSE, inputs) / "checkpoint.pt"
    plan = TrainingPlan(recipe.train, objectives.build(recipe.train), recipe.seed, checkpoint, recipe.data.workers)
    with run.progress("train") as progress:
        history = fit(model, domains, plan, progress)
    records.save(history, out / "history.json")
    records.save(summarise(domains), out / "data.json")
    model.save(out)


def check_training(settings: Training) -> None:
    """Raise UnknownName for an unknown objective, optimiser or schedule; builds them for a single weight."""
    from torch import nn

    from toolkit.dg import objectives, optimise

    objectives.build(settings)
    if settings.epochs:
        optimise.build_schedule(optimise.build_optimizer(nn.Linear(1, 1), settings), settings, steps=1)


def describe(run: Run, result: str) -> str:
    """Summary of the selected state in one line: step and validation accuracies."""
    history = run.folder.read(result, "history.json", TrainingHistory)
    by_domain = ", ".join(f"{domain} {accuracy:.1%}" for domain, accuracy in accuracies(run, result).items())
    return f"selected step {history.selected_step} of {history.steps}; validation accuracy: {by_domain}"


def accuracies(run: Run, result: str) -> dict[str, float]:
    """Validation accuracies of the selected state, 0 to 1, by source domain."""
    history = run.folder.read(result, "history.json", TrainingHistory)
    selected = next((item for item in history.evaluations if item.step == history.selected_step), None)
    if selected is None:
        raise ToolkitError(f"{result}/history.json has no evaluation at its selected step {history.selected_step}")
    return selected.accuracy
