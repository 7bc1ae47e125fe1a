"""One export: choose, prepare, write, and put on record."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import toolkit
from toolkit import hashing, recipe, records
from toolkit.errors import errors_naming
from toolkit.export import Written, check, target
from toolkit.export.calibrate import Sample
from toolkit.export.choices import Choices, choices
from toolkit.export.prepare import Prepared, prepare
from toolkit.models.model import Model
from toolkit.models.resize import check_sizes, resized
from toolkit.progress import Progress, silent
from toolkit.records import Artifact

RECORD = "artifact.json"


def export(
    name: str,
    model: Model,
    options: recipe.Export,
    out: Path,
    sample: Sample | None = None,
    report: Progress = silent,
) -> Artifact:
    """Write `model` for the target of this name, and `artifact.json`, into the folder `out`: all of it, or nothing. The
    model stays as it is.

    The images of `sample` are of the size that the file takes, usually takes where that is free.
    Raises MissingDependency, RecipeError for what the target cannot hold, UnsupportedModel where the exporter gives up,
    CheckFailed when the numbers are not torch's, LibraryDied, StorageError.
    """
    chosen = target(name)
    made = choices(name, chosen.abilities(), options)
    sizes = options.image_size or (model.info.image_size,)
    check_sizes(model.module, sizes, dynamic=options.any_image_size)
    model = _for_size(model, options)
    out.mkdir(parents=True, exist_ok=True)
    prepared = prepare(model, options, made, sample, report)
    with tempfile.TemporaryDirectory(prefix=".", dir=out) as folder, errors_naming(out, draft := Path(folder)):
        written = chosen.write(prepared, options, draft, report)
        artifact = _record(name, prepared, written, made, options, draft)
        records.save(artifact, draft / RECORD)
        for file in sorted(draft.iterdir(), key=lambda file: file.name == RECORD):  # what vouches for the others last
            file.replace(out / file.name)
    return artifact


def _record(
    name: str, prepared: Prepared, written: Written, made: Choices, options: recipe.Export, folder: Path
) -> Artifact:
    model = prepared.model
    inputs, outputs = check.specs(model.info, options)
    return Artifact(
        file=written.file,
        sha256=hashing.sha256(folder / written.file),
        target=name,
        precision=options.precision,
        inputs=(inputs,),
        outputs=(outputs,),
        model=model.info,
        built_with=_versions("torch", "timm", *written.built_with) | written.builder,
        options={"opset": made.opset, "attention": made.attention, **written.options},
        device_architecture=written.architecture,
        max_abs_difference=written.difference,
        also={file: hashing.sha256(folder / file) for file in written.also},
        rewrites=prepared.rewrites,
        lowered=written.lowered or prepared.lowered,
        fusion=written.fusion,
        notes=written.notes,
    )


def _for_size(model: Model, options: recipe.Export) -> Model:
    """The model for images of the size that is asked for; of any size, it keeps its positions, to resample from."""
    size = options.usual_image_size
    if size is None:
        return model
    fitted = resized(model, size)
    return replace(model, info=fitted.info) if options.any_image_size else fitted


def _versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that took part, as far as they are installed."""
    installed = {"toolkit": toolkit.__version__}
    for package in packages:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed
