"""finetune: the slim model, trained on the source domains, by default with distillation from the dense model, or by
matching it without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import recipe, records
from toolkit.records import DENSE, ModelInfo
from toolkit.stages import FINETUNED, PRUNED, Output, Run, Stage, inputs_of
from toolkit.stages.train import check_training, describe

if TYPE_CHECKING:
    from toolkit.dg.pictures import Pictures


class Finetune(Stage):
    name = "finetune"
    needs = ("prune",)

    def check(self, run: Run) -> None:
        from toolkit.dg.finetuning import check_objective

        check_training(run.recipe.finetune)
        check_objective(run.recipe.finetune)

    def outputs(self, run: Run) -> list[Output]:
        inputs = {
            "pruned": run.identity_of(PRUNED),
            "images": run.images_of(PRUNED),
            "data": run.domains.fingerprint(),
            **inputs_of("finetune", effective(run.recipe.finetune)),
            "seed": str(run.recipe.seed),
        }
        if run.recipe.finetune.distill:
            inputs["teacher"] = run.identity_of(DENSE)
        pictures = _pictures(run)
        if pictures is not None:
            inputs["pictures"] = pictures.fingerprint()
        return [Output(FINETUNED, inputs, lambda out: _finetune(run, inputs, pictures, out))]

    def record(self, run: Run) -> ModelInfo:
        return run.folder.read(FINETUNED, "model.json", ModelInfo)

    def summary_lines(self, run: Run) -> list[str]:
        return [describe(run, FINETUNED)]


def effective(settings: recipe.Finetune) -> recipe.Finetune:
    """The settings, with those that have no effect reset to their defaults."""
    from toolkit.dg.extensions.teaching import teacher_plugin

    matching = teacher_plugin(settings) is not None
    unused: list[str] = ["label_smoothing"] if matching else []
    unused += [] if settings.distill and not matching else ["distill_weight", "distill_temperature"]
    unused += [] if settings.average else ["average_from"]
    return settings.model_copy(update={name: recipe.Finetune.model_fields[name].default for name in unused})


def _pictures(run: Run) -> Pictures | None:
    """Unlabelled pictures that the objective's settings name."""
    from toolkit.dg.extensions.teaching import teacher_plugin

    plugin = teacher_plugin(run.recipe.finetune)
    return run.pictures(plugin.pictures) if plugin and plugin.pictures else None


def _finetune(run: Run, inputs: dict[str, str], pictures: Pictures | None, out: Path) -> None:
    from toolkit.dg.finetuning import TrainingData, finetune
    from toolkit.models import store

    slim = store.load(run.folder.path / PRUNED)
    teacher = store.load(run.folder.path / DENSE) if run.recipe.finetune.distill else None
    checkpoint = run.folder.scratch(FINETUNED, inputs) / "checkpoint.pt"
    data = TrainingData(run.domains, pictures)
    with run.progress("finetune") as progress:
        finetuned, history = finetune(slim, data, run.recipe, teacher, checkpoint, progress)
    records.save(history, out / "history.json")
    finetuned.save(out)
