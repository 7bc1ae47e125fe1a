"""One export: choose, prepare, write, and put on record."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import toolkit
from toolkit import hashing, recipe, records
from toolkit.export import check, target
from toolkit.export.calibrate import Sample
from toolkit.export.choices import choices
from toolkit.export.prepare import prepare
from toolkit.models.resize import check_size, resized
from toolkit.models.source import LoadedModel
from toolkit.progress import Progress, silent
from toolkit.records import Artifact


def export(
    name: str,
    model: LoadedModel,
    options: recipe.Export,
    out: Path,
    sample: Sample | None = None,
    report: Progress = silent,
) -> Artifact:
    """Write `model` for the target of this name, and `artifact.json`, into the folder `out`. The model stays as it is.

    Raises MissingDependency, RecipeError for what the target cannot hold, UnsupportedModel where the exporter gives up,
    CheckFailed when the numbers are not torch's, StorageError.
    """
    chosen = target(name)
    made = choices(name, chosen.abilities(), options)
    model = as_exported(model, options)
    out.mkdir(parents=True, exist_ok=True)
    prepared = prepare(model, options, made, sample, report)
    written = chosen.write(prepared, options, out, report)
    inputs, outputs = check.specs(model.info, options)
    artifact = Artifact(
        file=written.file,
        sha256=hashing.sha256(out / written.file),
        target=name,
        precision=options.precision,
        inputs=(inputs,),
        outputs=(outputs,),
        model=model.info,
        built_with=_versions("torch", "timm", *written.built_with),
        options={"opset": made.opset, "attention": made.attention, **written.options},
        device_architecture=written.architecture,
        max_abs_difference=written.difference,
        also={file: hashing.sha256(out / file) for file in written.also},
        rewrites=prepared.rewrites,
        lowered=written.lowered or prepared.lowered,
        fusion=written.fusion,
    )
    records.save(artifact, out / "artifact.json")
    return artifact


def as_exported(model: LoadedModel, options: recipe.Export) -> LoadedModel:
    """The model for the images that the file will take: of one size, or usually of one.

    Raises RecipeError for a size that patches do not fill.
    """
    for size in options.image_size:
        check_size(model.module, size)
    return resized(model, options.image_size[len(options.image_size) // 2]) if options.image_size else model


def _versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that took part, as far as they are installed."""
    installed = {"toolkit": toolkit.__version__}
    for package in packages:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed
