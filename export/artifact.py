"""Run one export and write artifact.json."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import toolkit
from toolkit import hashing, plugins, recipe, records
from toolkit.errors import errors_naming
from toolkit.export import Written, check
from toolkit.export import target as load_target
from toolkit.export.calibrate import Sample
from toolkit.export.prepare import Prepared, prepare
from toolkit.export.settings import ResolvedSettings, resolve_settings
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
    progress: Progress = silent,
) -> Artifact:
    """Write `model` for the target of this name, and `artifact.json`, into the folder `out`, atomically. The model is
    not modified.

    The images of `sample` have the input size of the file, or its typical size if that is dynamic.
    Raises MissingDependency, RecipeError for settings that the target does not support, UnsupportedModel if the
    exporter fails, CheckFailed if the logits differ from PyTorch's, LibraryDied, StorageError.
    """
    target = load_target(name, options.own(name))
    settings = resolve_settings(name, target.capabilities(), options)
    sizes = options.image_size or (model.info.image_size,)
    check_sizes(model, sizes, dynamic=options.any_image_size)
    model = _for_size(model, options)
    out.mkdir(parents=True, exist_ok=True)
    prepared = prepare(model, options, settings, sample, progress)
    with tempfile.TemporaryDirectory(prefix=".", dir=out) as folder, errors_naming(out, draft := Path(folder)):
        written = target.write(prepared, options, draft, progress)
        written = replace(written, built_with=_versions(target.needs, written.built_with))
        artifact = _record(name, prepared, written, settings, options, draft)
        records.save(artifact, draft / RECORD)
        for file in sorted(draft.iterdir(), key=lambda file: file.name == RECORD):  # the record last: it marks success
            file.replace(out / file.name)
    return artifact


def _record(
    name: str, prepared: Prepared, written: Written, settings: ResolvedSettings, options: recipe.Export, folder: Path
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
        built_with=written.built_with,
        batch=written.batch or prepared.input.batch,
        opset=settings.opset,
        attention=settings.attention,
        compiled=written.compiled,
        engine=written.engine,
        graph_difference=written.graph_difference,
        device_architecture=written.architecture,
        max_abs_difference=written.difference,
        extra_files={file: hashing.sha256(folder / file) for file in written.extra_files},
        rewrites=prepared.rewrites,
        lowered=written.lowered or prepared.lowered,
        fusion=written.fusion,
        notes=written.notes,
    )


def _for_size(model: Model, options: recipe.Export) -> Model:
    """The model for the requested image size; for dynamic sizes its position embeddings stay, to be resampled at run
    time."""
    size = options.usual_image_size
    if size is None:
        return model
    fitted = resized(model, size)
    return replace(model, info=fitted.info) if options.any_image_size else fitted


def _versions(needs: Sequence[str], reported: Mapping[str, str]) -> dict[str, str]:
    """Versions of the toolkit and of the packages that wrote the file; `reported` versions, by module name, replace
    those of packages."""
    packages = plugins.versions(name for name in ("torch", "timm", *needs) if name not in reported)
    return {"toolkit": toolkit.__version__, **packages, **reported}
