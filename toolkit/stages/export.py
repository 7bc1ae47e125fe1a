"""export: the slim model as files for runtimes, and the dense one for comparison."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    from toolkit.bench.parity import Side
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
        from toolkit.export import target
        from toolkit.export.unused import effective

        settings = run.recipe.export
        shared: dict[str, str] = {}
        if settings.precision != "fp32" or settings.verify:
            shared |= {"data": run.domains.fingerprint(), "margin": str(run.recipe.parity.margin)}
        outputs = []
        for name in settings.targets:
            own = {"export": hash_of(effective(settings).model_copy(update={"targets": (name,)}))}
            own |= target(name, settings.own(name)).depends_on()
            for subject, result in MODELS.items():
                inputs = {"model": run.weights_of(result), "images": run.images_of(result), **own, **shared}
                outputs.append(Output(artifact_folder(run, name, subject), inputs, partial(_export, run, name, result)))
        return outputs

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


def running_libraries(runtimes: Iterable[str], targets: Iterable[str]) -> list[str]:
    """Modules that run the files of these targets in these runtimes, and so decide predictions and latencies."""
    from toolkit.bench.runtimes import described
    from toolkit.export import target

    names = [*(described(name).needs for name in runtimes), *(target(name).runs_with for name in targets)]
    return list(dict.fromkeys(itertools.chain.from_iterable(names)))


def _export(run: Run, name: str, result: str, out: Path) -> None:
    from toolkit.export.artifact import export
    from toolkit.models import store

    settings = run.recipe.export
    with run.progress(f"export {name}, {result} model") as progress:
        progress(0, 1)
        model = store.load(run.folder.path / result)
        info = replace(model.info, image_size=settings.usual_image_size or model.info.image_size)
        sample = _sample(run, info) if settings.precision != "fp32" else None
        if sample is not None and info.image_size == model.info.image_size:
            sample = replace(sample, trained_accuracy=accuracies(run, result))
        export(name, model, settings, out, sample, progress)
        if settings.verify:
            _verify(run, name, result, out, progress)
        progress(1, 1)


def _sample(run: Run, info: ModelInfo) -> Sample:
    """Images of the source domains, for choosing a precision."""
    import numpy as np

    from toolkit.dg.batches import calibration_batches, calibration_images, evaluation_batches
    from toolkit.export.calibrate import DomainSample, Sample

    settings, domains = run.recipe.export, []
    drawn = calibration_images(_calibration_images(run), settings.calibration_images, run.recipe.seed)
    training = calibration_batches(drawn, info, 32)
    for name, images in run.domains.selection_images().items():
        batches = list(evaluation_batches(_subset(images), info, 32, run.recipe.data.workers))
        domains.append(DomainSample(name, *(np.concatenate([batch[part] for batch in batches]) for part in range(2))))
    calibration = np.concatenate([batch.images.numpy() for batch in training])
    return Sample(calibration, tuple(domains), run.recipe.parity.margin)


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
    from toolkit.bench.parity import Pair, by_domain, compare
    from toolkit.export import target

    sides = {result: (run.folder.path / result, "torch"), name: (out, target(name).runtime)}
    sample = {domain: _subset(images) for domain, images in run.domains.evaluation_images().items()}
    by_side = {
        side: predictions(run, folder, library, sample, lambda: progress(0, 1, "verifying"))
        for side, (folder, library) in sides.items()
    }
    pairs, margin = [Pair(result, name, judged=True)], run.recipe.parity.margin
    hashes = {side: by_side[side].sha256 for side in sides}
    parity = compare(by_domain(by_side), hashes, pairs, margin, run.domains.held_out)
    if parity.verdict == "fail":
        comparisons = [comparison for domain in parity.domains for comparison in domain.comparisons]
        worst = min(comparisons, key=lambda comparison: comparison.difference)
        other = "--precision, or --image-size" if run.recipe.export.image_size else "--precision"
        raise CheckFailed(
            f"the predictions of {name} differ from the {result} model's: {worst.difference:+.1%} accuracy in the "
            f"worst domain, equal top-1 class for {worst.agreement:.1%} of its images",
            f"another {other}, or a larger parity.margin",
        )


def predictions(
    run: Run, folder: Path, library: str, domains: Mapping[str, Sequence[Image]], tell: Callable[[], None]
) -> Side:
    """Predictions in every domain of the model in a folder, exported or not; calls `tell` before each domain."""
    from toolkit import limits
    from toolkit.bench.parity import Side, predict
    from toolkit.bench.runtimes.isolated import open_session
    from toolkit.dg.batches import evaluation_batches

    predicted = {}
    size, workers = run.recipe.parity.batch_size, run.recipe.data.workers
    with open_session(folder, library, limits.cores()) as session:
        for domain, images in domains.items():
            tell()
            predicted[domain] = predict(session, evaluation_batches(images, session.spec.model, size, workers))
    return Side(session.spec.sha256, predicted)


def _subset(images: Sequence[Image]) -> Sequence[Image]:
    """At most SAMPLE_SIZE images, evenly spaced."""
    return images[:: -(-len(images) // SAMPLE_SIZE)]
