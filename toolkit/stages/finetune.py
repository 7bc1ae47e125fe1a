"""finetune: the slim model, trained on the source domains, by default with distillation from the dense model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from toolkit import records
from toolkit.records import DENSE, ModelInfo
from toolkit.stages import FINETUNED, PRUNED, Output, Run, Stage, inputs_of
from toolkit.stages.train import check_training, describe


class Finetune(Stage):
    name = "finetune"
    needs = ("prune",)

    def check(self, run: Run) -> None:
        check_training(run.recipe.finetune)

    def outputs(self, run: Run) -> list[Output]:
        inputs = {
            "pruned": run.weights_of(PRUNED),
            "images": run.images_of(PRUNED),
            "data": run.domains.fingerprint(),
            **inputs_of("finetune", run.recipe.finetune),
            "seed": str(run.recipe.seed),
        }
        if run.recipe.finetune.distill:
            inputs["teacher"] = run.weights_of(DENSE)
        return [Output(FINETUNED, inputs, lambda out: _finetune(run, inputs, out))]

    def record(self, run: Run) -> ModelInfo:
        return run.folder.read(FINETUNED, "model.json", ModelInfo)

    def summary_lines(self, run: Run) -> list[str]:
        return [describe(run, FINETUNED)]


def _finetune(run: Run, inputs: dict[str, str], out: Path) -> None:
    from toolkit.dg import objectives
    from toolkit.dg.distill import Distilled
    from toolkit.dg.fit import TrainingPlan, fit
    from toolkit.models import store

    settings, recipe = run.recipe.finetune, run.recipe
    slim = store.load(run.folder.path / PRUNED)
    objective = objectives.build(settings)
    if settings.distill:
        teacher = store.load(run.folder.path / DENSE).module
        objective = Distilled(objective, teacher, settings.distill_weight, settings.distill_temperature)
    checkpoint = run.folder.scratch(FINETUNED, inputs) / "checkpoint.pt"
    plan = TrainingPlan(settings, objective, recipe.seed, checkpoint, recipe.data.workers, settings.distill)
    with run.progress("finetune") as progress:
        history = fit(slim, run.domains, plan, progress)
    records.save(history, out / "history.json")
    store.save(slim.with_info(replace(slim.info, made_from=slim.info.weights_sha256)), out)
