"""finetune: the slim model, trained on the source domains, by default with distillation from the dense model."""

from __future__ import annotations

from pathlib import Path

from toolkit import recipe, records
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
            **inputs_of("finetune", effective(run.recipe.finetune)),
            "seed": str(run.recipe.seed),
        }
        if run.recipe.finetune.distill:
            inputs["teacher"] = run.weights_of(DENSE)
        return [Output(FINETUNED, inputs, lambda out: _finetune(run, inputs, out))]

    def record(self, run: Run) -> ModelInfo:
        return run.folder.read(FINETUNED, "model.json", ModelInfo)

    def summary_lines(self, run: Run) -> list[str]:
        return [describe(run, FINETUNED)]


def effective(settings: recipe.Finetune) -> recipe.Finetune:
    """The settings, with those that have no effect reset to their defaults."""
    unused: list[str] = [] if settings.distill else ["distill_weight", "distill_temperature"]
    unused += [] if settings.average else ["average_from"]
    return settings.model_copy(update={name: recipe.Finetune.model_fields[name].default for name in unused})


def _finetune(run: Run, inputs: dict[str, str], out: Path) -> None:
    from toolkit.dg.finetuning import finetune
    from toolkit.models import store

    slim = store.load(run.folder.path / PRUNED)
    teacher = store.load(run.folder.path / DENSE).module if run.recipe.finetune.distill else None
    checkpoint = run.folder.scratch(FINETUNED, inputs) / "checkpoint.pt"
    with run.progress("finetune") as progress:
        finetuned, history = finetune(slim, run.domains, run.recipe, teacher, checkpoint, progress)
    records.save(history, out / "history.json")
    finetuned.save(out)
