"""The Python API: `toolkit.load`, `prune`, `finetune`, `export`, `parity` and `bench`.

Each function builds a section of a recipe and calls what the stage of its name calls. Settings are named as in the
recipe; `settings` takes those that are no arguments of their own: `settings={"round_to": 16}`. No function changes a
model that it receives. Errors are those of `toolkit.errors`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from toolkit import limits, plugins, records, resolve
from toolkit.bench.devices import device as load_device
from toolkit.bench.messages import BenchRequest, Subject
from toolkit.bench.parity import Pair, Side, by_domain, compare, predict
from toolkit.bench.runtimes.isolated import open_session
from toolkit.bench.summary import latency_lines
from toolkit.dg import objectives
from toolkit.dg.batches import Batch
from toolkit.dg.broken import without_broken
from toolkit.dg.domains import read_domains
from toolkit.dg.extensions.chosen import extensions
from toolkit.dg.fit import fit, total_steps
from toolkit.dg.image_check import check_images, empty_check, unchecked
from toolkit.dg.plan import TrainingPlan
from toolkit.errors import BadInput, DataError
from toolkit.export import artifact as artifacts
from toolkit.export import target as load_target
from toolkit.export.calibrate import DomainSample, Sample
from toolkit.models import store
from toolkit.models.architectures import owner_of, source_of
from toolkit.models.build import build, from_source
from toolkit.models.factories import allow
from toolkit.models.model import Model
from toolkit.prune import pruning
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job
from toolkit.records import Artifact, BenchReport, ParityReport, Setting

Batches: TypeAlias = Iterable[tuple[Any, Any]]
"""(images [batch, 3, S, S] float32, normalised; labels [batch]) as tensors or arrays, such as a DataLoader gives."""
Data: TypeAlias = Batches | Mapping[str, Batches]
"""Batches, or batches of each domain by name."""
Settings: TypeAlias = Mapping[str, object]
"""Settings of a section of the recipe by name."""
ONE_DOMAIN = "images"
"""Name of the domain if there is only one."""


@dataclass(frozen=True)
class Exported:
    """A folder with an exported file, and the record of it (`artifact.json`)."""

    folder: Path
    artifact: Artifact


@dataclass(frozen=True)
class Latencies:
    """All samples of a measurement (`report`); as text, medians and ratios to the first model."""

    report: BenchReport

    def __str__(self) -> str:
        return "\n".join(latency_lines(self.report))


Runnable: TypeAlias = Model | Exported | str | Path
"""A model, an exported file, or a folder with one of the two."""


def load(
    source: str | Path | nn.Module,
    classes: Sequence[str] = (),
    *,
    weights: str = "hub",
    image_size: int | None = None,
    args: Mapping[str, Setting] | None = None,
    seed: int = 0,
    factory: str | None = None,
) -> Model:
    """A model folder, or a dense model with a classifier for `classes`.

    source: a model folder; a name of timm; a folder that transformers wrote (`config.json`, `model.safetensors`), which
    names its classes itself; a factory "package.module:function", which is called with the number of classes; or the
    module itself, of timm's or transformers' classes, which then belongs to the model. weights: "hub" (timm's, or the
    folder's own), "none" (random), or a file. args: arguments of timm such as `depth`. seed: of random weights.
    factory: the one that a model folder was built by; without it, none is called.
    """
    if isinstance(source, nn.Module):
        built = owner_of(source).describe(source)
        settings = resolve.recipe_of({"model": {"name": built.name, "image_size": image_size}}).model
        return from_source(built, settings, tuple(classes)).identified()
    name = str(source)
    if (Path(source) / "model.json").exists():
        allow(factory or "")
        return store.load(Path(source))
    if not (classes := tuple(classes) or source_of(name).class_names(name)):
        raise BadInput(f"{source} is not a model folder, and a new model needs class names", "load(name, classes)")
    values = {"name": name, "weights": weights, "image_size": image_size, "args": dict(args or {})}
    return build(resolve.recipe_of({"model": values}).model, classes, seed).identified()


def prune(
    model: Model,
    data: Data = (),
    *,
    budget: str | None = None,
    criterion: str = "taylor",
    axes: Sequence[str] = ("head", "mlp"),
    seed: int = 0,
    settings: Settings | None = None,
) -> Model:
    """A smaller model without the least important units, verified against the masked large one.

    data: calibration images, which data-driven criteria need. budget: "macs=0.5" (the default) or "params=0.5".
    """
    section = {"budget": budget, "criterion": criterion, "axes": [*axes], **(settings or {})}
    chosen = resolve.recipe_of({"prune": section}).prune

    @cache
    def batches() -> dict[str, list[Batch]]:
        return _by_domain(data, model)

    def read(domains: Sequence[str]) -> list[Batch]:
        return [batch for domain in domains for batch in batches()[domain]]

    names = tuple(data) if isinstance(data, Mapping) else (ONE_DOMAIN,)
    job = Job(chosen, Calibration(read, names, seed), seed)
    return pruning.prune(model.identified(), job).slim.identified()


def finetune(
    model: Model,
    data: str | Path,
    *,
    hold_out: str | None = None,
    teacher: Model | None = None,
    epochs: int = 10,
    seed: int = 0,
    settings: Settings | None = None,
) -> Model:
    """The model trained on the source domains of a folder of images, in its best state on their validation images.

    data: DOMAIN/CLASS/image or CLASS/image, with the classes of the model. hold_out: a domain that is not trained on,
    or "none". teacher: a model to distil from.
    """
    section = {"epochs": epochs, "distill": teacher is not None, **(settings or {})}
    values = {"finetune": section, "data": {"path": str(data), "hold_out": hold_out}}
    chosen = resolve.recipe_of(values)
    listed, check = read_domains(chosen.data, seed), empty_check(chosen.data.background)
    domains = without_broken(listed, check_images(unchecked(listed, check), check), chosen.data.skip_broken)
    if domains.classes != model.info.classes:
        raise DataError(f"{data} has the classes {domains.classes}, the model has {model.info.classes}")
    objective = objectives.build(chosen.finetune)
    origin = model.identified().info.weights_sha256
    trained = replace(model, module=deepcopy(model.module), info=replace(model.info, made_from=origin))
    with tempfile.TemporaryDirectory() as scratch:
        steps = total_steps(domains, chosen.finetune)
        extended = extensions(chosen.finetune, trained.module, deepcopy(teacher.module) if teacher else None, steps)
        checkpoint = Path(scratch) / "checkpoint.pt"
        fit(trained, domains, TrainingPlan(chosen.finetune, objective, seed, checkpoint, None, extended))
    return trained.identified()


def export(
    model: Model,
    target: str,
    out: str | Path,
    *,
    precision: str = "fp32",
    sample: Data | None = None,
    margin: float = 0.01,
    settings: Settings | None = None,
) -> Exported:
    """The model as a file for a runtime, in the folder `out`.

    target: "onnx", "openvino", "tensorrt", "rtx" or "torch". sample: labelled images of the source domains, by which
    lower precisions are chosen so that no domain loses more than `margin` of its accuracy.
    """
    chosen = resolve.recipe_of({"export": {"targets": [target], "precision": precision, **(settings or {})}}).export
    if precision != "fp32" and sample is None:
        raise BadInput(f"{precision} needs labelled images, by which it is chosen", "export(..., sample=batches)")
    images = None if sample is None else _sample(_by_domain(sample, model), margin)
    return Exported(Path(out), artifacts.export(target, model.identified(), chosen, Path(out), images))


def parity(
    models: Mapping[str, Runnable],
    data: Data,
    *,
    margin: float = 0.01,
    held_out: str | None = None,
) -> ParityReport:
    """Predictions of all models on the same labelled images, and a verdict per domain on each against the first one.

    held_out: name of the domain in `data` that was not trained on.
    """
    reference, *candidates = models
    with _opened(models) as subjects:
        domains = _by_domain(data, None)
        sides = {}
        for name, subject in subjects.items():
            with open_session(Path(subject.folder), subject.runtime, limits.cores()) as session:
                predictions = {domain: predict(session, batches) for domain, batches in domains.items()}
                sides[name] = Side(session.spec.sha256, predictions)
    hashes = {name: side.sha256 for name, side in sides.items()}
    pairs = [Pair(reference, candidate, judged=True) for candidate in candidates]
    return compare(by_domain(sides), hashes, pairs, margin, held_out)


def bench(
    models: Mapping[str, Runnable],
    *,
    batch_sizes: Sequence[int] = (1, 8),
    seconds: float = 10.0,
    samples: int = 30,
    threads: int | None = None,
    device: str = "local",
) -> Latencies:
    """Latencies of all models on random images, interleaved in a process of its own.

    seconds: minimum duration per batch size, for all models together; samples: minimum number per model. Disturbed
    measurements are marked as INVALID.
    """
    with _opened(models) as subjects:
        libraries = tuple(plugins.requirements())
        request = BenchRequest(subjects, tuple(batch_sizes), seconds, samples, threads, device, libraries=libraries)
        return Latencies(load_device(device).bench(request))


def _by_domain(data: Data, model: Model | None) -> dict[str, list[Batch]]:
    """Batches of float32 images and int64 labels by domain; DataError for other shapes, or without images."""
    named = data if isinstance(data, Mapping) else {ONE_DOMAIN: data}
    domains = {
        name: [Batch(torch.as_tensor(images), torch.as_tensor(labels).long()) for images, labels in batches]
        for name, batches in named.items()
    }
    for name, batches in domains.items():
        if not batches:
            raise DataError(f"there are no images in {name!r}", "give batches of (images, labels)")
        for batch in batches:
            _check_batch(batch, model)
    return domains


def _check_batch(batch: Batch, model: Model | None) -> None:
    images, labels = batch
    size = model.info.image_size if model else images.shape[-1]
    if images.shape[1:] != (3, size, size) or images.dtype != torch.float32 or labels.shape != images.shape[:1]:
        raise DataError(
            f"a batch has images {[*images.shape]} {images.dtype} and labels {[*labels.shape]}",
            f"expected are images [batch, 3, {size}, {size}] float32 and labels [batch]",
        )


def _sample(domains: Mapping[str, Sequence[Batch]], margin: float) -> Sample:
    """The same images for calibration and for accuracies."""
    images = {name: np.concatenate([batch.images.numpy() for batch in batches]) for name, batches in domains.items()}
    labels = {name: np.concatenate([batch.labels.numpy() for batch in batches]) for name, batches in domains.items()}
    samples = tuple(DomainSample(name, images[name], labels[name]) for name in domains)
    return Sample(np.concatenate([*images.values()]), samples, margin)


@contextmanager
def _opened(models: Mapping[str, Runnable]) -> Iterator[dict[str, Subject]]:
    """Folder and runtime of each model; models in memory are saved to a temporary folder."""
    if not models:
        raise BadInput("there are no models", 'give them by name: {"dense": model}')
    with tempfile.TemporaryDirectory() as scratch:
        subjects = {}
        for index, (name, model) in enumerate(models.items()):
            if isinstance(model, Model):
                folder = Path(scratch) / str(index)
                folder.mkdir()
                model.save(folder)
            else:
                folder = model.folder if isinstance(model, Exported) else Path(model)
            subjects[name] = Subject(str(folder.resolve()), _runtime(folder))
        yield subjects


def _runtime(folder: Path) -> str:
    """The runtime of an exported file; PyTorch for a model folder."""
    file = folder / artifacts.RECORD
    return load_target(records.load(Artifact, file).target).runtime if file.exists() else "torch"
