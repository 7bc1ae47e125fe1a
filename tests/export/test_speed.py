"""Exported files are faster than those of torch.onnx.export, for equal models, measured interleaved.

    pytest -m slow -s tests/export/test_speed.py

prints all measurements. Weights are random: no kernel's speed depends on values.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from toolkit import limits, recipe
from toolkit.bench.runtimes import runtime
from toolkit.bench.statistics import ratio_of_medians
from toolkit.export.artifact import export
from toolkit.export.calibrate import DomainSample, Sample
from toolkit.limits import PROC, text_of
from toolkit.models.block import blocks_of
from toolkit.models.build import build
from toolkit.models.model import Model

SIZE, CLASSES = 160, ("a", "b", "c", "d", "e", "f", "g")
CALLS = {1: 300, 8: 60}
"""Measured calls per subject, by batch size."""
CALLS_PER_TURN = 5
HAS_BF16 = "avx512_bf16" in text_of(PROC / "cpuinfo")

Run = Callable[[np.ndarray], np.ndarray]

pytestmark = [pytest.mark.slow, pytest.mark.speed]


@pytest.fixture(scope="module")
def dense() -> Model:
    model = build(recipe.Model(name="deit_tiny_patch16_224", weights="none", image_size=SIZE), CLASSES, seed=0)
    return replace(model, info=replace(model.info, weights_sha256="ab" * 32))


@pytest.fixture(scope="module")
def slim(dense: Model, halved: Callable[..., Model]) -> Model:
    return halved(dense, "head", "mlp")


def timm_module(model: Model) -> nn.Module:
    """timm's module with these widths, as torch-pruning would return it: fewer heads, narrower layers."""
    plain = timm.create_model("deit_tiny_patch16_224", img_size=SIZE, num_classes=len(CLASSES)).eval()
    for ours, theirs in zip(blocks_of(model.module), plain.blocks, strict=True):
        (count, width, _), *others = ours.attn.layout.buckets
        assert not others
        theirs.attn.num_heads, theirs.attn.head_dim, theirs.attn.attn_dim = count, width, count * width
        theirs.attn.qkv = nn.Linear(plain.embed_dim, 3 * count * width)
        theirs.attn.proj = nn.Linear(count * width, plain.embed_dim)
        hidden = ours.mlp.fc2.weight.shape[1]
        theirs.mlp.fc1, theirs.mlp.fc2 = nn.Linear(plain.embed_dim, hidden), nn.Linear(hidden, plain.embed_dim)
    return plain


def in_onnxruntime(file: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = limits.cores()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def default_exports(module: nn.Module, batch: int, folder: Path) -> dict[str, Run]:
    """`torch.onnx.export` with default arguments, and with a dynamic batch."""
    dynamic = ({0: torch.export.Dim("batch")},)
    runs = {}
    for name, size, shapes in (("fixed batch", batch, None), ("dynamic batch", 2, dynamic)):
        file = folder / f"{name}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (torch.randn(size, 3, SIZE, SIZE),), file, dynamic_shapes=shapes, verbose=False)
        runs[f"torch.onnx.export of timm's model, {name}"] = in_onnxruntime(file)
    return runs


def exported(model: Model, target: str, out: Path, **options: object) -> Path:
    images = np.random.default_rng(0).standard_normal((16, 3, SIZE, SIZE), dtype=np.float32)
    with torch.inference_mode():
        labels = model.module(torch.from_numpy(images)).argmax(1).numpy()
    sample = Sample(images, (DomainSample("one", images, labels),), 0.9)
    export(target, model, recipe.Export.model_validate(options), out, sample)
    return out


def speedups(title: str, subjects: Mapping[str, Run], batch: int, baselines: int = 1) -> dict[str, float]:
    """Speedup of each subject over the fastest of the first `baselines` subjects, from interleaved calls.

    Every turn starts with a call that wakes threads and fills caches, which is not measured.
    """
    images = np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE), dtype=np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(CALLS[batch] // CALLS_PER_TURN + 2):
        for name in subjects if turn % 2 else reversed(subjects):
            for call in range(1 + CALLS_PER_TURN):
                start = time.perf_counter()
                subjects[name](images)
                if turn >= 2 and call:
                    seconds[name].append(time.perf_counter() - start)
    baseline = min(list(subjects)[:baselines], key=lambda name: float(np.median(seconds[name])))
    ratios = {name: ratio_of_medians(seconds[baseline], seconds[name]) for name in subjects}
    for name, ratio in ratios.items():
        median = 1e3 * float(np.median(seconds[name]))
        print(f"{title}, batch {batch}: {name} {median:.2f} ms, {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
    return {name: ratio.value for name, ratio in ratios.items()}


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("subject", ["dense", "slim"])
def test_faster_than_default_exports(request: pytest.FixtureRequest, tmp_path: Path, subject: str, batch: int) -> None:
    model = request.getfixturevalue(subject)
    defaults = default_exports(timm_module(model), batch, tmp_path)
    ours = in_onnxruntime(exported(model, "onnx", tmp_path / "ours") / "model.onnx")
    assert speedups(subject, {**defaults, "this export": ours}, batch, baselines=2)["this export"] > 1.05


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("subject", ["dense", "slim"])
def test_int8_is_faster_in_onnxruntime(
    request: pytest.FixtureRequest, tmp_path: Path, subject: str, batch: int
) -> None:
    model = request.getfixturevalue(subject)
    files = {
        name: in_onnxruntime(exported(model, "onnx", tmp_path / name, precision=name) / "model.onnx")
        for name in ("fp32", "int8")
    }
    assert speedups(subject, files, batch)["int8"] > 1.0


@pytest.mark.skipif(not HAS_BF16, reason="the CPU has no AVX512-bf16")
@pytest.mark.parametrize("batch", [1, 8])
def test_bf16_is_faster_in_openvino(dense: Model, tmp_path: Path, batch: int) -> None:
    defaults = default_exports(timm_module(dense), batch, tmp_path)
    ours = in_onnxruntime(exported(dense, "onnx", tmp_path / "onnx") / "model.onnx")
    folder = exported(dense, "openvino", tmp_path / "openvino", precision="bf16")
    with runtime("openvino").open(folder, limits.cores()) as session:
        subjects = {**defaults, "onnxruntime fp32": ours, "openvino bf16": session.run}
        assert speedups("dense", subjects, batch, baselines=2)["openvino bf16"] > 1.6
