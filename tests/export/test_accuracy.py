"""Files in lower precision are as right as the trained model, whatever form attention is written in."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from toolkit import recipe, records
from toolkit.bench.feed import predict_logits
from toolkit.bench.identity import identify
from toolkit.bench.runtimes import runtime
from toolkit.export import onnx_session
from toolkit.export.artifact import export
from toolkit.export.calibrate import Images, Part, Sample, batches
from toolkit.export.widened import widened
from toolkit.models.adapt import attentions
from toolkit.models.model import Model
from toolkit.pixels import to_pixels
from toolkit.records import Artifact, Lowered, TrainingHistory

MARGIN = 0.02
NAMES = ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
FORMS = ("decomposed", "packed", "standard", "custom")
QUICK = {
    "int8": ("deit_tiny_distilled_patch16_224", "outliers", ("decomposed", "standard", "custom")),
    "fp16": ("deit_tiny_patch16_224", "outliers", ("decomposed", "custom")),
    "bf16": ("beit_base_patch16_224", "outliers", ("decomposed", "standard")),
}
"""Of each precision, the model and the forms that are not slow."""


@dataclass(frozen=True)
class Export:
    """A file and what it was made of."""

    model: Model
    sample: Sample
    artifact: Artifact
    folder: Path

    @property
    def lowered(self) -> Lowered:
        assert self.artifact.lowered is not None
        return self.artifact.lowered

    @property
    def spared(self) -> object:
        made = self.lowered
        return made.unquantised, made.blocks, made.norms, made.softmax, made.residual


@pytest.fixture(scope="module")
def exports(
    trained: Callable[[str], Model],
    with_outliers: Callable[[Model], Model],
    digits: Callable[[Model], tuple[torch.Tensor, torch.Tensor]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Export]:
    """`exports(name, "plain" or "outliers", precision, form)`"""

    @cache
    def made(name: str, kind: str, precision: str, form: str) -> Export:
        model = trained(name) if kind == "plain" else with_outliers(trained(name))
        images, labels = (part.numpy() for part in digits(model))
        parts = tuple(Part(f"from {start}", images[start:][:100], labels[start:][:100]) for start in (1500, 1600))
        sample = Sample(images[1400:1464], parts, MARGIN)
        options = recipe.Export.model_validate({"precision": precision, "attention": form})
        folder = tmp_path_factory.mktemp("out")
        return Export(model, sample, export("onnx", model, options, folder, sample), folder)

    return made


def accuracy(logits: Images, part: Part) -> float:
    return float((logits.argmax(1) == part.labels).mean())


def is_quick(name: str, kind: str, precision: str, form: str) -> bool:
    return (name, kind) == QUICK[precision][:2] and form in QUICK[precision][2]


CASES = [
    pytest.param(case, id="-".join(case), marks=() if is_quick(*case) else pytest.mark.slow)
    for case in itertools.product(NAMES, ("plain", "outliers"), QUICK, FORMS)
]


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_as_right_as_the_model(exports: Callable[..., Export], case: tuple[str, str, str, str]) -> None:
    name, kind, precision, form = case
    made = exports(*case)
    with torch.inference_mode():
        own = [accuracy(made.model.module(torch.from_numpy(part.images)).numpy(), part) for part in made.sample.parts]
    assert min(own) > 0.75, "it is trained"
    assert list(made.lowered.reference.values()) == own
    assert made.artifact.options["attention"] == form
    assert made.spared == exports(name, kind, precision, "decomposed").spared
    found = [accuracy(answered(made, part.images), part) for part in made.sample.parts]
    assert all(share >= theirs - MARGIN - 1e-9 for share, theirs in zip(found, own, strict=True))
    if precision == "bf16":  # no file runs here, but its graph does in float32
        assert made.artifact.max_abs_difference is None
        assert made.artifact.options["graph_difference"] is not None
    else:
        assert list(made.lowered.accuracy.values()) == found


def answered(made: Export, images: Images) -> Images:
    """What the file says in onnxruntime; in bf16, for which that has no kernels, what its graph does in float32."""
    if made.artifact.precision == "bf16":
        graph = widened(onnx.load(made.folder / made.artifact.file))
        with onnx_session.opened(graph.SerializeToString()) as run:
            return run(images)
    identity = identify(made.folder)
    with runtime("onnxruntime").open(made.folder, threads=1) as session:
        return np.concatenate([predict_logits(session, each, identity) for each in batches(images)])


def test_outliers_are_spared(exports: Callable[..., Export]) -> None:
    name, kind, _ = QUICK["int8"]
    assert exports(name, kind, "int8", "standard").lowered.unquantised


RECIPE = """\
model:
  name: deit_tiny_patch16_224
  weights: weights.safetensors
  image_size: 16
  args: {patch_size: 4, embed_dim: 48, depth: 2, num_heads: 2, mlp_ratio: 2.0}
data: {path: photos, hold_out: none, workers: 0}
train: {epochs: 0}
prune: {budget: macs=0.95, axes: [mlp], criterion: magnitude-l2, samples: 8}
finetune: {epochs: 0, distill: false}
"""


def test_what_a_user_is_told(
    trained: Callable[[str], Model],
    with_outliers: Callable[[Model], Model],
    digits: Callable[[Model], tuple[torch.Tensor, torch.Tensor]],
    command: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`toolkit export --precision int8` in a run whose model has outliers."""
    monkeypatch.chdir(tmp_path)
    model = with_outliers(trained("deit_tiny_patch16_224"))
    save_file(as_timm_has_it(model.module), "weights.safetensors")
    Path("toolkit.yaml").write_text(RECIPE)
    images, labels = digits(model)
    pixels = to_pixels(images.numpy(), model.info.preprocessing)
    for number in range(1400, 1700):
        folder = Path("photos", "one" if number % 2 else "two", str(int(labels[number])))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number].transpose(1, 2, 0)).save(folder / f"{number}.png")
    ended = command("export", "--precision", "int8")
    assert ended.code == 0, ended.err
    for result, artifact in (("dense", "onnx-int8-dense"), ("finetuned", "onnx-int8")):
        history = records.load(TrainingHistory, Path("runs/default", result, "history.json"))
        lowered = records.load(Artifact, Path("runs/default/artifacts", artifact, "artifact.json")).lowered
        assert lowered is not None
        assert lowered.reference == history.evaluations[0].accuracy
        assert min(lowered.accuracy.values()) > 0.75
        assert lowered.unquantised


def as_timm_has_it(module: nn.Module) -> dict[str, torch.Tensor]:
    """Its weights with queries', keys' and values' biases in one."""
    state = dict(module.state_dict())
    for place in attentions(module):
        state[f"{place}.qkv.bias"] = torch.cat([state.pop(f"{place}.{part}_bias") for part in "qkv"])
    return state
