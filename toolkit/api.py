"""The Python API: `toolkit.load`, `prune`, `finetune`, `export`, `parity` and `bench`.

Each function builds a section of a recipe and runs the code of the stage of the same name. Settings are named as in the
recipe; `settings` takes those without an argument of their own: `settings={"round_to": 16}`. No function changes a
model that it receives. Errors are those of `toolkit.errors`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from torch import nn

from toolkit import resolve
from toolkit.arguments import check_unset, section
from toolkit.bench.deployment import deployment_of
from toolkit.bench.devices import device as load_device
from toolkit.bench.latency_meter import Meter, user_cache
from toolkit.bench.parity import Pair, compare_sides, side_of
from toolkit.bench.subjects import Opened, request_of, runtime_of
from toolkit.bench.summary import Latencies
from toolkit.dg import finetuning
from toolkit.dg.broken import checked_domains
from toolkit.dg.extensions.teaching import teacher_plugin
from toolkit.dg.finetuning import TrainingData
from toolkit.dg.in_memory import Data, batches_by_domain, domain_names
from toolkit.dg.pictures import checked_pictures
from toolkit.errors import BadInput
from toolkit.export import artifact as artifacts
from toolkit.export.calibrate import sample_of
from toolkit.export.unused import unused_settings
from toolkit.models import store
from toolkit.models.architectures import owner_of, source_of
from toolkit.models.build import build, from_source
from toolkit.models.factories import allow
from toolkit.models.model import Model
from toolkit.prune import pruning
from toolkit.prune.budget import budget_of
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job, check_quantity
from toolkit.recipe import Recipe
from toolkit.records import Artifact, ParityReport, Setting

Settings: TypeAlias = Mapping[str, object]
"""Settings of a section of the recipe by name."""


@dataclass(frozen=True)
class Exported:
    """A folder with an exported file, and the record of it (`artifact.json`)."""

    folder: Path
    artifact: Artifact


Runnable: TypeAlias = Model | Exported | str | Path
"""A model, an exported file, or a folder with one of the two."""
NOT_FOR_MATCHING = ("distill_weight", "distill_temperature", "label_smoothing")
"""Settings of `finetune` without effect for an objective that learns from a teacher."""
NOT_FOR_EXPORT = {
    "targets": "it is the argument `target`",
    "verify": "toolkit.parity compares the file's predictions with the model's",
    "calibration_images": "all images of `sample` are used",
    "calibration_domains": "give `sample` without the other domains",
}
"""Settings of `export` that the function does not take, and what replaces them."""


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

    source: a model folder; a name of timm; a folder that transformers wrote (`config.json`, `model.safetensors`), whose
    config names the classes; a factory "package.module:function", which is called with the number of classes; or a
    module of a supported class of timm or transformers, which the model takes over. weights: "hub" (timm's, or the
    folder's own), "none" (random), or a file. args: arguments of timm such as `depth`. seed: seed of random weights.
    factory: the factory that a model folder names; without this argument, none is called.
    """
    if isinstance(source, nn.Module):
        fixed = {"weights": weights != "hub", "args": args, "seed": seed, "factory": factory}
        check_unset(fixed, "the model is a module, which determines it")
        built = owner_of(source).describe(source)
        settings = resolve.recipe_of({"model": {"name": built.name, "image_size": image_size}}).model
        return from_source(built, settings, tuple(classes)).identified()
    name = str(source)
    if (Path(source) / "model.json").exists():
        new = {"classes": classes, "weights": weights != "hub", "image_size": image_size, "args": args, "seed": seed}
        check_unset(new, f"{source} is a model folder, which determines it")
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
    criterion: str | None = None,
    axes: Sequence[str] | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Model:
    """A smaller model, without the least important units or with fewer tokens, verified against the masked large one.

    The method is that of `settings`; without one, `grouped` if `criterion`, one of the axes block, head and embed, or
    in `settings` ratio, scope or steps are given, else `oneshot`. data: calibration images, which `oneshot` and
    data-driven criteria need. budget: "macs=0.5" (the default), "params=0.5", or for methods that search by latency
    "latency=0.5" or "latency=4ms": exported blocks are then measured, once for a model, runtime and batch size
    (`runtime` and `at_batch` in `settings`). axes: default: those of the method.
    """
    given = {"budget": budget, "criterion": criterion, "axes": None if axes is None else [*axes]}
    arguments = {name: value for name, value in given.items() if value is not None}
    instead = {"samples": "all images of `data` are used", **{name: f"it is the argument `{name}`" for name in given}}
    if not (budget or "").startswith("latency"):
        instead |= dict.fromkeys(("device", "runtime", "at_batch"), "it is for a latency budget")
    values = section("prune", arguments, settings, instead)
    batches = cache(partial(batches_by_domain, data, model.info.image_size))
    chosen = resolve.recipe_of(values)
    calibration = Calibration(
        lambda domains: [batch for domain in domains for batch in batches()[domain]],
        domain_names(data),
        seed,
        chosen.prune.aggregate,
    )
    check_quantity(chosen.prune.method, budget_of(chosen.prune))
    with _latency_meter(chosen) as meter:
        job = Job(chosen.prune, calibration, seed, latency=meter)
        return pruning.prune(model.identified(), job).slim.identified()


@contextmanager
def _latency_meter(chosen: Recipe) -> Iterator[Meter | None]:
    """The meter of a latency budget; None for other budgets."""
    if budget_of(chosen.prune).quantity != "latency":
        yield None
        return
    deployment = deployment_of(chosen.prune, chosen.export, chosen.bench)
    deployment.check()
    with Meter(deployment, user_cache()) as meter:
        yield meter


def finetune(
    model: Model,
    data: str | Path | None,
    *,
    hold_out: str | None = None,
    teacher: Model | None = None,
    epochs: int = 10,
    seed: int = 0,
    settings: Settings | None = None,
) -> Model:
    """The model trained on the source domains of a folder of images, in its best state on their validation images.

    data: DOMAIN/CLASS/image or CLASS/image, with the classes of the model; None: only the pictures without labels that
    `settings={"objective": "matching", "matching": {"images": folder}}` names. hold_out: a domain that is not trained
    on, or "none". teacher: a model to distil from, or to match; without one there is no distillation.
    """
    distillation = ("distill",) if teacher else ("distill", "distill_weight", "distill_temperature")
    instead = dict.fromkeys(distillation, "a model is distilled from the argument `teacher`")
    values = section("finetune", {"epochs": epochs, "distill": teacher is not None}, settings, instead)
    source = {} if data is None else {"path": str(data), "hold_out": hold_out}
    chosen = resolve.recipe_of({**values, "data": source, "seed": seed})
    if data is None:
        check_unset({"hold_out": hold_out}, "there are no domains without `data`")
    plugin = teacher_plugin(chosen.finetune)
    if plugin is not None:
        section(
            "finetune", {}, settings, dict.fromkeys(NOT_FOR_MATCHING, f"{chosen.finetune.objective} takes no labels")
        )
    domains = checked_domains(chosen.data, seed)[0] if data is not None else None
    pictures = checked_pictures(plugin.pictures, chosen.data, seed)[0] if plugin and plugin.pictures else None
    trained = model.identified().copied()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint.pt"
        copy = teacher.copied() if teacher else None
        result, _ = finetuning.finetune(trained, TrainingData(domains, pictures), chosen, copy, checkpoint)
    return result.identified()


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

    target: "onnx", "openvino", "tensorrt", "rtx" or "torch". sample: labelled images of the source domains, required by
    lower precisions: layers stay float32 where a domain would otherwise lose more than `margin` of its accuracy.
    """
    values = section("export", {"targets": [target], "precision": precision}, settings, NOT_FOR_EXPORT)
    chosen = resolve.recipe_of({**values, "parity": {"margin": margin}})
    if unused := unused_settings(chosen.export):
        raise BadInput("; ".join(unused), "leave it out")
    if precision != "fp32" and sample is None:
        raise BadInput(f"{precision} needs a sample of labelled images", "export(..., sample=batches)")
    images = None
    if sample is not None:
        domains = batches_by_domain(sample, chosen.export.usual_image_size or model.info.image_size)
        images = sample_of(chain(*domains.values()), domains, chosen.parity.margin)
    return Exported(Path(out), artifacts.export(target, model.identified(), chosen.export, Path(out), images))


def parity(
    models: Mapping[str, Runnable],
    data: Data,
    *,
    margin: float = 0.01,
    held_out: str | None = None,
) -> ParityReport:
    """Predictions of all models on the same labelled images, and a verdict per domain for each model compared with the
    first.

    held_out: name of the domain in `data` that was not trained on.
    """
    chosen = resolve.recipe_of({"parity": {"margin": margin}}).parity
    if len(models) < 2:
        raise BadInput(
            f"at least two models are needed, not {len(models)}", 'parity({"slim": slim, "onnx": onnx}, ...)'
        )
    reference, *candidates = models
    domains = batches_by_domain(data, None)
    with _opened(models) as opened:
        sides = {name: side_of(subject, lambda _: domains.items()) for name, subject in opened.items()}
    pairs = [Pair(reference, candidate, judged=True) for candidate in candidates]
    return compare_sides(sides, pairs, chosen.margin, held_out)


def bench(
    models: Mapping[str, Runnable],
    *,
    batch_sizes: Sequence[int] = (1, 8),
    seconds: float = 10.0,
    samples: int = 30,
    threads: int | None = None,
    device: str = "local",
    settings: Settings | None = None,
) -> Latencies:
    """Latencies of all models on random images, interleaved in a separate process.

    seconds: minimum duration per batch size, for all models together; samples: minimum number per model. Disturbed
    measurements are marked as INVALID. A runtime in `settings` opens all models; the default is PyTorch for a `Model`
    and, for an exported file, the runtime of its target.
    """
    stop = {"seconds": seconds, "samples": samples}
    arguments = {"batch_size": [*batch_sizes], **stop, "threads": threads, "device": device}
    values = section("bench", arguments, settings, {"batch_size": "it is the argument `batch_sizes`"})
    chosen = resolve.recipe_of(values).bench
    if not models:
        raise BadInput("there are no models", 'give them by name: {"dense": model}')
    with _opened(models, chosen.runtime) as opened:
        return Latencies(load_device(device, chosen.own(device)).bench(request_of(opened, chosen)))


@contextmanager
def _opened(models: Mapping[str, Runnable], runtime: str | None = None) -> Iterator[dict[str, Opened]]:
    """Folder and runtime of each model; models in memory are saved to a temporary folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {}
        for index, (name, model) in enumerate(models.items()):
            if isinstance(model, Model):
                folders[name] = Path(scratch) / str(index)
                model.save(folders[name])
            else:
                folders[name] = model.folder if isinstance(model, Exported) else Path(model)
        yield {name: Opened(folder, runtime or runtime_of(folder)) for name, folder in folders.items()}
