"""export: the slim model as files that runtimes open, and the dense one beside it, to compare with."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from toolkit.records import SLIM, Artifact
from toolkit.stages import MODELS, Run, Stage, Unit, hash_of


class Export(Stage):
    name = "export"
    needs = ("finetune",)

    def check(self, run: Run) -> None:
        from toolkit.export import target

        for name in run.recipe.export.targets:
            target(name)

    def units(self, run: Run) -> list[Unit]:
        options = hash_of(run.recipe.export.model_copy(update={"targets": ()}))
        units = []
        for name in run.recipe.export.targets:
            for subject, result in MODELS.items():
                inputs = {"model": run.weights_of(result), "export": options}
                units.append(Unit(artifact_folder(run, name, subject), inputs, partial(_export, run, name, result)))
        return units

    def record(self, run: Run) -> list[Artifact]:
        return [
            run.folder.read(artifact_folder(run, name, SLIM), "artifact.json", Artifact)
            for name in run.recipe.export.targets
        ]

    def told(self, run: Run) -> list[str]:
        return [
            f"{run.folder.path / artifact_folder(run, artifact.target, SLIM) / artifact.file}: logits within "
            f"{artifact.max_abs_difference:.1e} of torch's"
            for artifact in self.record(run)
        ]


def artifact_folder(run: Run, target: str, subject: str) -> str:
    """artifacts/onnx-fp32 is what ships; artifacts/onnx-fp32-dense is what it is compared with."""
    suffix = "" if subject == SLIM else f"-{subject}"
    return f"artifacts/{target}-{run.recipe.export.precision}{suffix}"


def _export(run: Run, name: str, result: str, out: Path) -> None:
    from toolkit.export import target
    from toolkit.models import source

    with run.shown(f"export {name}, {result} model") as report:
        report(0, 1)
        target(name).export(source.load(run.folder.path / result), run.recipe.export, out)
        report(1, 1)
