"""export: the slim model as files that runtimes open, and the dense one beside it, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    from toolkit.bench.parity import Predictions
    from toolkit.dg.image import Image
    from toolkit.export.calibrate import Sample
    from toolkit.progress import Progress

LOOKED_AT = 128
"""Images of each domain that a number format is judged by, and that `--verify` compares answers on."""


class Export(Stage):
    name = "export"
    needs = ("finetune",)

    def check(self, run: Run) -> None:
        from toolkit.export import target
        from toolkit.export.choices import choices
        from toolkit.export.idle import idle
        from toolkit.export.possible import check_possible

        settings = run.recipe.export
        for line in idle(settings):
            run.tell(f"export: warning: {line}")
        for name in settings.targets:
            choices(name, target(name).abilities(), settings)
            target(name).check(settings)
            if not run.has_dense or settings.image_size:
                check_possible(name, run.outline, settings)
        if settings.verify:
            for name, error in not_running_here(run).items():
                raise type(error)(
                    f"--verify cannot run what {name} writes: {error.message}",
                    f"without --verify it is written; {error.hint}",
                )

    def check_data(self, run: Run) -> None:
        if run.recipe.export.calibration_domains:
            _calibration_parts(run)

    def outputs(self, run: Run) -> list[Output]:
        from toolkit.export import target

        settings = run.recipe.export
        shared = {"export": hash_of(settings.model_copy(update={"targets": ()}))}
        if settings.precision != "fp32" or settings.verify:
            shared |= {"data": run.domains.fingerprint(), "parity": hash_of(run.recipe.parity)}
        outputs = []
        for name in settings.targets:
            for subject, result in MODELS.items():
                made_from = {"model": run.weights_of(result), "images": run.images_of(result)}
                inputs = {**made_from, **target(name).depends_on(settings), **shared}
                outputs.append(Output(artifact_folder(run, name, subject), inputs, partial(_export, run, name, result)))
        return outputs

    def record(self, run: Run) -> list[Artifact]:
        return [
            run.folder.read(artifact_folder(run, name, SLIM), "artifact.json", Artifact)
            for name in run.recipe.export.targets
        ]

    def summary_lines(self, run: Run) -> list[str]:
        lines = []
        for artifact in self.record(run):
            file = run.folder.path / artifact_folder(run, artifact.target, SLIM) / artifact.file
            lines += [f"{file}: {_compared(artifact)}", *artifact.notes, *_fusion_lines(artifact)]
        return lines


def artifact_folder(run: Run, target: str, subject: str) -> str:
    """artifacts/onnx-fp32 is what ships; artifacts/onnx-fp32-dense is what it is compared with."""
    suffix = "" if subject == SLIM else f"-{subject}"
    return f"artifacts/{target}-{run.recipe.export.precision}{suffix}"


def not_running_here(run: Run) -> dict[str, ToolkitError]:
    """The targets whose files this machine will not run, and why, as far as it is known before they are written."""
    from toolkit.export import target

    found: dict[str, ToolkitError] = {}
    for name in run.recipe.export.targets:
        try:
            target(name).check_runs_here(run.recipe.export)
        except (DeviceUnreachable, LibraryDied, MissingDependency, WrongMachine) as error:
            found[name] = error
    return found


def _compared(artifact: Artifact) -> str:
    """How near the file's answers are to torch's, as far as it is known."""
    if artifact.max_abs_difference is not None:
        return f"logits within {artifact.max_abs_difference:.1e} of torch's"
    graph = artifact.options.get("graph_difference")
    known = "not compared with torch" if graph is None else f"its graph's logits are within {graph:.1e} of torch's"
    return f"not run on this machine; {known}"


def _fusion_lines(artifact: Artifact) -> list[str]:
    """How many blocks have fused attention; for the others, why not, and what to do about it."""
    if not artifact.fusion:
        return []
    fused = sum(found.status == "fused" for found in artifact.fusion)
    lines = [f"attention is one kernel in {fused} of {len(artifact.fusion)} blocks"]
    others = [found for found in artifact.fusion if found.status != "fused"]
    for status, reason, mend in dict.fromkeys((found.status, found.reason, found.mend) for found in others):
        blocks = [found.block for found in others if (found.status, found.reason, found.mend) == (status, reason, mend)]
        what = {"partly": "partly in", "not": "not in", "unknown": "it is not known in"}[status]
        warned = "warning: " if mend else ""
        lines.append(f"{warned}{what} {', '.join(map(str, blocks))}: {reason}{f'; try {mend}' if mend else ''}")
    return lines


def _export(run: Run, name: str, result: str, out: Path) -> None:
    from toolkit.export.artifact import export
    from toolkit.models import store

    settings = run.recipe.export
    with run.progress(f"export {name}, {result} model") as report:
        report(0, 1)
        model = store.load(run.folder.path / result)
        info = replace(model.info, image_size=settings.usual_image_size or model.info.image_size)
        sample = _sample(run, info) if settings.precision != "fp32" else None
        if sample is not None and info.image_size == model.info.image_size:
            sample = replace(sample, trained=accuracies(run, result))
        export(name, model, settings, out, sample, report)
        if settings.verify:
            _verify(run, name, result, out, report)
        report(1, 1)


def _sample(run: Run, info: ModelInfo) -> Sample:
    """Images of the source domains to choose a number format by."""
    import numpy as np

    from toolkit.dg.batches import calibration_batches, evaluation_batches
    from toolkit.export.calibrate import Part, Sample

    settings, parts = run.recipe.export, []
    drawn = calibration_batches(_calibration_parts(run), info, settings.calibration_images, 32, run.recipe.seed)
    for domain, images in run.domains.selection_images().items():
        seen = list(evaluation_batches(_some(images), info, 32, run.recipe.data.workers))
        parts.append(Part(domain, *(np.concatenate([batch[part] for batch in seen]) for part in range(2))))
    calibration = np.concatenate([batch.images.numpy() for batch in drawn])
    return Sample(calibration, tuple(parts), run.recipe.parity.margin)


def _calibration_parts(run: Run) -> dict[str, tuple[Image, ...]]:
    """Training images by domain; DataError for a domain that is not there, or must stay unseen."""
    parts = run.domains.training_images()
    asked = run.recipe.export.calibration_domains
    if run.domains.held_out in asked:
        raise DataError(
            f"{run.domains.held_out} is the held-out domain: a file calibrated on it would have seen it",
            f"calibrate on {', '.join(parts)} (export.calibration_domains)",
        )
    if unknown := [name for name in asked if name not in parts]:
        raise DataError(f"there is no domain {unknown[0]!r} to calibrate on", f"there are {', '.join(parts)}")
    return {name: images for name, images in parts.items() if not asked or name in asked}


def _verify(run: Run, name: str, result: str, out: Path, report: Progress) -> None:
    """Open what was written, and compare its answers with the model's on some images of every domain."""
    from toolkit.bench.parity import Pair, by_domain, compare
    from toolkit.export import target

    sides = {result: (run.folder.path / result, "torch"), name: (out, target(name).runtime)}
    parts = {domain: _some(images) for domain, images in run.domains.evaluation_images().items()}
    seen = {side: predictions(run, *where, parts, lambda: report(0, 1, "verifying")) for side, where in sides.items()}
    pairs, margin = [Pair(result, name, judged=True)], run.recipe.parity.margin
    found = compare(by_domain(seen), dict.fromkeys(sides, ""), pairs, margin, run.domains.held_out)
    if found.verdict == "fail":
        worst = min((made for each in found.domains for made in each.comparisons), key=lambda made: made.difference)
        other = "--precision, or --image-size" if run.recipe.export.image_size else "--precision"
        raise CheckFailed(
            f"{name} does not answer as the {result} model: {worst.difference:+.1%} accuracy in the worst domain, "
            f"the same class for {worst.agreement:.1%} of the images",
            f"another {other}, or a wider parity.margin",
        )


def predictions(
    run: Run, folder: Path, library: str, parts: Mapping[str, Sequence[Image]], tell: Callable[[], None]
) -> dict[str, Predictions]:
    """What the model in a folder, exported or not, predicts in every domain; `tell` is called before each one."""
    from toolkit import limits
    from toolkit.bench.identity import identify
    from toolkit.bench.parity import predict
    from toolkit.bench.runtimes.isolated import open_session
    from toolkit.dg.batches import evaluation_batches

    identity, found = identify(folder), {}
    size, workers = run.recipe.parity.batch_size, run.recipe.data.workers
    with open_session(folder, library, limits.cores()) as session:
        for domain, images in parts.items():
            tell()
            found[domain] = predict(session, evaluation_batches(images, identity.model, size, workers), identity)
    return found


def _some(images: Sequence[Image]) -> Sequence[Image]:
    """At most LOOKED_AT of them, spread over all."""
    return images[:: -(-len(images) // LOOKED_AT)]
