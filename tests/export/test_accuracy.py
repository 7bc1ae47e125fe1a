"""Files in lower precision keep the trained model's accuracy, in every form of attention."""

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
from toolkit.bench.runtimes import runtime
from toolkit.export import onnx_session
from toolkit.export.artifact import export
from toolkit.export.calibrate import DomainSample, Sample, batches
from toolkit.export.upcast import upcast
from toolkit.models.block import attentions
from toolkit.models.model import Model
from toolkit.pixels import Array, InputFormat
from toolkit.records import Artifact, Lowered, TrainingHistory

MARGIN = 0.02
NAMES = ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
FORMS = ("decomposed", "packed", "standard", "custom")
QUICK = {
    "int8": ("deit_tiny_distilled_patch16_224", "outliers", ("decomposed", "standard", "custom")),
    "fp16": ("deit_tiny_patch16_224", "outliers", ()),
    "bf16": ("beit_base_patch16_224", "outliers", ("decomposed",)),
}
"""For each precision, the model, the kind and the forms whose tests are not slow."""


@dataclass(frozen=True)
class Export:
    """An exported file, its model and its sample."""

    model: Model
    sample: Sample
    artifact: Artifact
    folder: Path

    @property
    def lowered(self) -> Lowered:
        assert self.artifact.lowered is not None
        return self.artifact.lowered

    @property
    def in_fp32(self) -> object:
        lowered = self.lowered
        return lowered.unquantised, lowered.blocks, lowered.norms, lowered.softmax, lowered.residual


@pytest.fixture(scope="module")
def exports(
    trained: Callable[[str], Model],
    with_outliers: Callable[[Model], Model],
    digits: Callable[[Model], tuple[torch.Tensor, torch.Tensor]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Export]:
    """`exports(name, "plain" or "outliers", precision, form)`"""

    @cache
    def create(name: str, kind: str, precision: str, form: str) -> Export:
        model = trained(name) if kind == "plain" else with_outliers(trained(name))
        images, labels = (tensor.numpy() for tensor in digits(model))
        domains = (
            DomainSample("one", images[1500:1600], labels[1500:1600]),
            DomainSample("two", images[1600:1700], labels[1600:1700]),
        )
        sample = Sample(images[1400:1464], domains, MARGIN)
        options = recipe.Export.model_validate({"precision": precision, "attention": form})
        folder = tmp_path_factory.mktemp("out")
        return Export(model, sample, export("onnx", model, options, folder, sample), folder)

    return create


def accuracy(logits: Array, domain: DomainSample) -> float:
    return float((logits.argmax(1) == domain.labels).mean())


def is_quick(name: str, kind: str, precision: str, form: str) -> bool:
    return (name, kind) == QUICK[precision][:2] and form in QUICK[precision][2]


CASES = [
    pytest.param(case, id="-".join(case), marks=() if is_quick(*case) else pytest.mark.slow)
    for case in itertools.product(NAMES, ("plain", "outliers"), QUICK, FORMS)
]


@pytest.mark.parametrize("case", CASES)
def test_a_file_keeps_the_models_accuracy(exports: Callable[..., Export], case: tuple[str, str, str, str]) -> None:
    name, kind, precision, form = case
    exported, domains = exports(*case), exports(*case).sample.domains
    with torch.inference_mode():
        logits = [exported.model.module(torch.from_numpy(domain.images)).numpy() for domain in domains]
    expected = [accuracy(*pair) for pair in zip(logits, domains, strict=True)]
    assert min(expected) > 0.75, "it is trained"
    assert list(exported.lowered.reference.values()) == expected
    assert exported.artifact.attention == form
    assert exported.in_fp32 == exports(name, kind, precision, "decomposed").in_fp32
    actual = [accuracy(logits_of(exported, domain.images), domain) for domain in domains]
    assert all(after >= before - MARGIN - 1e-9 for before, after in zip(expected, actual, strict=True))
    if precision == "bf16":  # the file cannot run here; its graph runs upcast to float32
        assert exported.artifact.max_abs_difference is None
        assert exported.artifact.graph_difference is not None
    else:
        assert list(exported.lowered.accuracy.values()) == actual


def logits_of(exported: Export, images: Array) -> Array:
    """The file's logits in onnxruntime; those of a bf16 graph upcast to float32, as onnxruntime has no bf16 kernels."""
    if exported.artifact.precision == "bf16":
        graph = upcast(onnx.load(exported.folder / exported.artifact.file))
        with onnx_session.opened(graph.SerializeToString()) as predict:
            return predict(images)
    with runtime("onnxruntime").open(exported.folder, threads=1) as session:
        return np.concatenate([session.predict(batch) for batch in batches(images)])


def test_a_model_with_outliers_keeps_blocks_in_fp32(exports: Callable[..., Export]) -> None:
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


@pytest.mark.slow
def test_the_export_command_keeps_the_accuracy_of_a_model_with_outliers(
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
    save_file(timm_weights(model.module), "weights.safetensors")
    Path("toolkit.yaml").write_text(RECIPE)
    images, labels = digits(model)
    pixels = InputFormat.of(model.info.preprocessing, "uint8").encode(images.numpy())
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


def timm_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict in timm's format, with a single qkv bias."""
    state = dict(module.state_dict())
    for name in attentions(module):
        state[f"{name}.qkv.bias"] = torch.cat([state.pop(f"{name}.{part}_bias") for part in "qkv"])
    return state
