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
    from toolkit.dg.extensions.chosen import extensions
    from toolkit.dg.fit import fit, total_steps
    from toolkit.dg.plan import TrainingPlan
    from toolkit.models import store

    settings, recipe = run.recipe.finetune, run.recipe
    slim = store.load(run.folder.path / PRUNED)
    teacher = store.load(run.folder.path / DENSE).module if settings.distill else None
    plan = TrainingPlan(
        settings,
        objectives.build(settings),
        recipe.seed,
        run.folder.scratch(FINETUNED, inputs) / "checkpoint.pt",
        recipe.data.workers,
        extensions(settings, slim.module, teacher, total_steps(run.domains, settings)),
    )
    with run.progress("finetune") as progress:
        history = fit(slim, run.domains, plan, progress)
    records.save(history, out / "history.json")
    slim.with_info(replace(slim.info, made_from=slim.info.weights_sha256)).save(out)
