"""One table of what methods keep of DeiT-Tiny without training: accuracy, divergence and latency at several budgets.

    python examples/without_training.py WEIGHTS PICTURES CLASSES OUT [--budgets 0.75,0.5] [--latency]

WEIGHTS: deit_tiny_patch16_224.safetensors. PICTURES: a folder CLASS/picture. CLASSES: a file with the names of all
classes of the weights, in their order. Every second picture calibrates; the others measure. OUT gets models, files and
a table for each budget; models that are there are not made again. Latencies need a machine without other work.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.nn.functional import interpolate, kl_div, log_softmax

import toolkit
from toolkit.errors import BudgetError
from toolkit.models.model import Model

TAYLOR = {"criterion": "taylor"}
SEQUENTIAL = {"compensation": "sequential"}
TAU = {"method": "optin", "optin": {"tau": True}}
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped, taylor": TAYLOR,
    "grouped, hessian": {"criterion": "hessian"},
    "grouped, lamp": {"criterion": "lamp"},
    "grouped, magnitude-l1": {"criterion": "magnitude-l1"},
    "grouped, magnitude-l2": {"criterion": "magnitude-l2"},
    "grouped, random": {"criterion": "random"},
    "grouped, taylor, bias": {**TAYLOR, "compensation": "bias"},
    "grouped, taylor, ridge": {**TAYLOR, "compensation": "ridge"},
    "grouped, taylor, sequential": {**TAYLOR, **SEQUENTIAL},
    "grouped, taylor, svd, sequential": {**TAYLOR, **SEQUENTIAL, "axes": ["qk", "v", "mlp"], "basis": "svd"},
    "optin": {"method": "optin"},
    "optin, tau": TAU,
    "optin, tau, sequential": {**TAU, **SEQUENTIAL},
    "resolution": {"method": "resolution"},
    "oneshot": {"method": "oneshot"},
    "oneshot, fewer tokens": {"method": "oneshot", "oneshot": {"fewest_tokens": 0.2}},
    "oneshot, multiples of 16": {"method": "oneshot", "round_to": 16, "oneshot": {"tokens_multiple": 16}},
}
RUNTIMES = ("onnx", "openvino")
BATCH_SIZES = (1, 8)


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor


def batches(files: Sequence[Path], classes: Sequence[str]) -> Iterator[Batch]:
    transform = create_transform(224, interpolation="bicubic", crop_pct=0.9)
    for start in range(0, len(files), 32):
        part = files[start : start + 32]
        images = [transform(Image.open(file).convert("RGB")) for file in part]
        yield Batch(torch.stack(images), torch.tensor([classes.index(file.parent.name) for file in part]))


@torch.inference_mode()
def predictions(model: Model, pictures: Sequence[Batch]) -> Tensor:
    """Log probabilities [pictures, classes], of pictures resampled to the model's image size."""
    size = model.info.image_size
    images = (
        batch.images if batch.images.shape[-1] == size
        else interpolate(batch.images, (size, size), mode="bicubic", antialias=True)
        for batch in pictures
    )  # fmt: skip
    return torch.cat([log_softmax(model.module.eval()(each), dim=-1) for each in images])


def figures(dense: Model, slim: Model, pictures: Sequence[Batch]) -> dict[str, str]:
    labels = torch.cat([batch.labels for batch in pictures])
    before, after = predictions(dense, pictures), predictions(slim, pictures)
    return {
        "MACs": f"{slim.cost.macs / dense.cost.macs:.3f}",
        "parameters": f"{slim.cost.parameters / dense.cost.parameters:.3f}",
        "accuracy": f"{100 * (after.argmax(dim=-1) == labels).float().mean():.1f} %",
        "KL": f"{kl_div(after, before, log_target=True, reduction='batchmean'):.3f}",
    }


def prune(
    dense: Model, calibration: Sequence[Batch], budget: str, settings: dict[str, Any], folder: Path
) -> Model | None:
    """The pruned model, made or loaded; None if the budget cannot be reached."""
    if (folder / "model.json").exists():
        return toolkit.load(folder)
    named = {name: settings[name] for name in ("criterion", "axes") if name in settings}
    others = {name: value for name, value in settings.items() if name not in named}
    try:
        slim = toolkit.prune(dense, calibration, budget=f"macs={budget}", settings=others, **named)
    except BudgetError as error:
        print(f"{folder}: {error}", flush=True)
        return None
    slim.save(folder)
    return slim


def speed_ups(models: dict[str, Model], out: Path) -> dict[str, dict[str, str]]:
    """How many times faster each model is than the first one, by runtime and batch size; all are measured in turn."""
    result: dict[str, dict[str, str]] = {name: {} for name in models}
    for runtime in RUNTIMES:
        files = {
            name: toolkit.export(model, runtime, out / runtime / str(number))
            for number, (name, model) in enumerate(models.items())
        }
        measured = toolkit.bench(files, batch_sizes=BATCH_SIZES, seconds=2.0 * len(files)).report.measurements
        for size in BATCH_SIZES:
            own = [each for each in measured if each.batch_size == size]
            invalid = "" if all(each.valid for each in own) else " INVALID"
            for each in own:
                ratio = median(own[0].latency_ms) / median(each.latency_ms)
                result[each.subject][f"{runtime}, batch size {size}"] = f"{ratio:.2f}x{invalid}"
    return result


def table(rows: dict[str, dict[str, str]]) -> str:
    """The rows as Markdown."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("weights", "pictures", "classes", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--budgets", default="0.9,0.8,0.75,0.6,0.5,0.4")
    parser.add_argument("--latency", action="store_true")
    given = parser.parse_args()
    classes = given.classes.read_text(encoding="utf-8").split()
    files = sorted(given.pictures.glob("*/*.jpg"))
    calibration, pictures = ([*batches(files[first::2], classes)] for first in (0, 1))
    dense = toolkit.load("deit_tiny_patch16_224", classes, weights=str(given.weights))
    for budget in given.budgets.split(","):
        models, rows = {"dense": dense}, {"dense": figures(dense, dense, pictures)}
        for name, settings in VARIANTS.items():
            if slim := prune(dense, calibration, budget, settings, given.out / budget / name.replace(", ", "-")):
                models[name], rows[name] = slim, figures(dense, slim, pictures)
                print(budget, name, rows[name], flush=True)
        latencies = speed_ups(models, given.out / budget) if given.latency else {}
        text = table({name: {**row, **latencies.get(name, {})} for name, row in rows.items()})
        (given.out / budget / "table.md").write_text(text + "\n", encoding="utf-8")
        print(text, flush=True)


if __name__ == "__main__":
    main()
