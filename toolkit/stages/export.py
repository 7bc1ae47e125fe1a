"""export: the slim model as files for runtimes, and the dense one for comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import (
    CheckFailed,
    DataError,
    DeviceUnreachable,
    LibraryDied,
    MissingDependency,
    ToolkitError,
    WrongMachine,
)
from toolkit.records import SLIM, Artifact, ModelInfo
from toolkit.stages import MODELS, Output, Run, Stage, hash_of
from toolkit.stages.train import accuracies

if TYPE_CHECKING:
    from toolkit.bench.parity import Batches, Side
    from toolkit.bench.subjects import Opened
    from toolkit.dg.image import Image
    from toolkit.export.calibrate import Sample
    from toolkit.progress import Progress

SAMPLE_SIZE = 128
"""Images of each domain for choosing a precision and for `--verify`."""


class Export(Stage):
    name = "export"
    needs = ("finetune",)

    def check(self, run: Run) -> None:
        from toolkit.export import target
        from toolkit.export.feasibility import check_feasible
        from toolkit.export.settings import resolve_settings
        from toolkit.export.unused import unused_settings

        settings = run.recipe.export
        for line in unused_settings(settings):
            run.tell(f"export: warning: {line}")
        for name in settings.targets:
            chosen = target(name, settings.own(name))
            resolve_settings(name, chosen.capabilities(), settings)
            chosen.check(settings)
            if not run.has_dense or settings.image_size:
                check_feasible(name, run.outline, settings)
        if settings.verify:
            for name, error in not_running_here(run).items():
                raise type(error)(
                    f"--verify cannot run the {name} file on this machine: {error.message}",
                    f"drop --verify to export it anyway; {error.hint}",
                )

    def check_data(self, run: Run) -> None:
        if run.recipe.export.calibration_domains:
            _calibration_images(run)

    def outputs(self, run: Run) -> list[Output]:
        return [
            output(run, name, result, artifact_folder(run, name, subject))
            for name in run.recipe.export.targets
            for subject, result in MODELS.items()
        ]

    def record(self, run: Run) -> list[Artifact]:
        return [
            run.folder.read(artifact_folder(run, name, SLIM), "artifact.json", Artifact)
            for name in run.recipe.export.targets
        ]

    def summary_lines(self, run: Run) -> list[str]:
        from toolkit.report.artifact_text import difference, fusion_lines

        lines = []
        for artifact in self.record(run):
            file = run.folder.path / artifact_folder(run, artifact.target, SLIM) / artifact.file
            lines += [f"{file}: {difference(artifact)}", *artifact.notes, *fusion_lines(artifact)]
        return lines


def output(run: Run, name: str, model: str, result: str) -> Output:
    """The file of a target for a finished model, as the result of this name."""
    from toolkit.export import target
    from toolkit.export.unused import effective

    settings = run.recipe.export
    inputs = {
        "model": run.identity_of(model),
        "images": run.images_of(model),
        "export": hash_of(effective(settings).model_copy(update={"targets": (name,)})),
        **target(name, settings.own(name)).depends_on(),
    }
    if settings.precision != "fp32" or settings.verify:
        inputs |= {"data": run.domains.fingerprint(), "margin": str(run.recipe.parity.margin)}
    return Output(result, inputs, partial(_export, run, name, model))


def artifact_folder(run: Run, target: str, subject: str) -> str:
    """Result folder: artifacts/onnx-fp32 for the slim model, artifacts/onnx-fp32-dense for the dense one."""
    suffix = "" if subject == SLIM else f"-{subject}"
    return f"artifacts/{target}-{run.recipe.export.precision}{suffix}"


def not_running_here(run: Run) -> dict[str, ToolkitError]:
    """Targets whose files this machine cannot run, and why, as far as is known before they are written."""
    from toolkit.export import target

    errors: dict[str, ToolkitError] = {}
    for name in run.recipe.export.targets:
        try:
            target(name, run.recipe.export.own(name)).check_runs_here(run.recipe.export)
        except (DeviceUnreachable, LibraryDied, MissingDependency, WrongMachine) as error:
            errors[name] = error
    return errors


def _export(run: Run, name: str, result: str, out: Path) -> None:
    from toolkit.export.artifact import export
    from toolkit.models import store

    settings = run.recipe.export
    with run.progress(f"export {name}, {result} model") as progress:
        progress(0, 1)
        model = store.load(run.folder.path / result)
        info = replace(model.info, image_size=settings.usual_image_size or model.info.image_size)
        sample = _sample(run, info) if settings.precision != "fp32" else None
        trained = result in MODELS.values()  # others have no history
        if sample is not None and trained and info.image_size == model.info.image_size:
            sample = replace(sample, trained_accuracy=accuracies(run, result))
        export(name, model, settings, out, sample, progress)
        if settings.verify:
            _verify(run, name, result, out, progress)
        progress(1, 1)


def _sample(run: Run, info: ModelInfo) -> Sample:
    """Images of the source domains, for choosing a precision."""
    from toolkit.dg.batches import calibration_batches, calibration_images, evaluation_batches
    from toolkit.export.calibrate import sample_of

    recipe = run.recipe
    drawn = calibration_images(_calibration_images(run), recipe.export.calibration_images, recipe.seed)
    validation = {
        name: evaluation_batches(_subset(images), info, 32, recipe.data.workers)
        for name, images in run.domains.selection_images().items()
    }
    return sample_of(calibration_batches(drawn, info, 32), validation, recipe.parity.margin)


def _calibration_images(run: Run) -> dict[str, tuple[Image, ...]]:
    """Training images by domain; DataError for an unknown or held-out calibration domain."""
    domains = run.domains.training_images()
    requested = run.recipe.export.calibration_domains
    if run.domains.held_out in requested:
        raise DataError(
            f"{run.domains.held_out} is the held-out domain and cannot be used for calibration",
            f"calibrate on {', '.join(domains)} (export.calibration_domains)",
        )
    if unknown := [name for name in requested if name not in domains]:
        raise DataError(
            f"there is no domain {unknown[0]!r} to calibrate on",
            f"existing domains: {', '.join(domains)} (export.calibration_domains)",
        )
    return {name: images for name, images in domains.items() if not requested or name in requested}


def _verify(run: Run, name: str, result: str, out: Path, progress: Progress) -> None:
    """Run the exported file, and compare its predictions with the model's on a sample of every domain."""
    from toolkit.bench.parity import Pair, compare_sides
    from toolkit.bench.subjects import Opened
    from toolkit.export import target

    sides = {result: Opened(run.folder.path / result, "torch"), name: Opened(out, target(name).runtime)}
    sample = {domain: _subset(images) for domain, images in run.domains.evaluation_images().items()}
    by_side = {
        side: predictions(run, opened, sample, lambda: progress(0, 1, "verifying")) for side, opened in sides.items()
    }
    pairs = [Pair(result, name, judged=True)]
    parity = compare_sides(by_side, pairs, run.recipe.parity.margin, run.domains.held_out)
    if parity.verdict == "fail":
        comparisons = [comparison for domain in parity.domains for comparison in domain.comparisons]
        worst = min(comparisons, key=lambda comparison: comparison.difference)
        other = "--precision, or --image-size" if run.recipe.export.image_size else "--precision"
        raise CheckFailed(
            f"the predictions of {name} differ from the {result} model's: {worst.difference:+.1%} accuracy in the "
            f"worst domain, equal top-1 class for {worst.agreement:.1%} of its images",
            f"another {other}, or a larger parity.margin",
        )


def predictions(run: Run, opened: Opened, domains: Mapping[str, Sequence[Image]], tell: Callable[[], None]) -> Side:
    """Predictions in every domain of the model in a folder, exported or not; calls `tell` before each domain."""
    from toolkit.bench.parity import side_of
    from toolkit.dg.batches import evaluation_batches

    size, workers = run.recipe.parity.batch_size, run.recipe.data.workers

    def batches(info: ModelInfo) -> Iterator[tuple[str, Batches]]:
        for domain, images in domains.items():
            tell()
            yield domain, evaluation_batches(images, info, size, workers)

    return side_of(opened, batches)


def _subset(images: Sequence[Image]) -> Sequence[Image]:
    """At most SAMPLE_SIZE images, evenly spaced."""
    return images[:: -(-len(images) // SAMPLE_SIZE)]
