"""What this export writes is faster than what the usual ways write, for the same model, side by side in one run.

    pytest -m slow -s tests/export/test_speed.py

prints every figure. Random weights will do: no kernel here is faster or slower for the values.
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
from toolkit.models.build import build
from toolkit.models.model import Model
from toolkit.models.shapes import blocks_of

SIZE, CLASSES = 160, ("a", "b", "c", "d", "e", "f", "g")
CALLS = {1: 300, 8: 60}
"""Of each side, by batch size."""
CALLS_A_TURN = 5
HAS_BF16 = "avx512_bf16" in text_of(PROC / "cpuinfo")

Run = Callable[[np.ndarray], np.ndarray]

pytestmark = [pytest.mark.slow, pytest.mark.speed]


@pytest.fixture(scope="module")
def dense() -> Model:
    made = build(recipe.Model(name="deit_tiny_patch16_224", weights="none", image_size=SIZE), CLASSES, seed=0)
    return replace(made, info=replace(made.info, weights_sha256="ab" * 32))


@pytest.fixture(scope="module")
def slim(dense: Model, halved: Callable[..., Model]) -> Model:
    return halved(dense, "head", "mlp")


def timms(model: Model) -> nn.Module:
    """timm's own module of these widths, as torch-pruning leaves it: fewer heads, narrower layers."""
    plain = timm.create_model("deit_tiny_patch16_224", img_size=SIZE, num_classes=len(CLASSES)).eval()
    for ours, theirs in zip(blocks_of(model.module), blocks_of(plain), strict=True):
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
    """`torch.onnx.export` with nothing said, and with no more than a free batch."""
    free = ({0: torch.export.Dim("batch")},)
    runs = {}
    for name, size, shapes in (("fixed batch", batch, None), ("free batch", 2, free)):
        file = folder / f"{name}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (torch.randn(size, 3, SIZE, SIZE),), file, dynamic_shapes=shapes, verbose=False)
        runs[f"torch.onnx.export of timm's model, {name}"] = in_onnxruntime(file)
    return runs


def exported(model: Model, kind: str, out: Path, **options: object) -> Path:
    images = np.random.default_rng(0).standard_normal((16, 3, SIZE, SIZE), dtype=np.float32)
    with torch.inference_mode():
        labels = model.module(torch.from_numpy(images)).argmax(1).numpy()
    export(kind, model, recipe.Export.model_validate(options), out, Sample(images, (DomainSample("one", images, labels),), 0.9))
    return out


def ratios(what: str, sides: Mapping[str, Run], batch: int, base: int = 1) -> dict[str, float]:
    """How many times faster each side is than the fastest of the first `base`, from calls that take turns.

    A turn is a call that wakes threads and fills caches, and is not counted, and some that are.
    """
    images = np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE), dtype=np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(CALLS[batch] // CALLS_A_TURN + 2):
        for name in sides if turn % 2 else reversed(sides):
            for call in range(1 + CALLS_A_TURN):
                start = time.perf_counter()
                sides[name](images)
                if turn >= 2 and call:
                    seconds[name].append(time.perf_counter() - start)
    first = min(list(sides)[:base], key=lambda name: float(np.median(seconds[name])))
    found = {name: ratio_of_medians(seconds[first], seconds[name]) for name in sides}
    for name, ratio in found.items():
        median = 1e3 * float(np.median(seconds[name]))
        print(f"{what}, batch {batch}: {name} {median:.2f} ms, {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
    return {name: ratio.value for name, ratio in found.items()}


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("which", ["dense", "slim"])
def test_against_the_exporters_defaults(request: pytest.FixtureRequest, tmp_path: Path, which: str, batch: int) -> None:
    model = request.getfixturevalue(which)
    usual = default_exports(timms(model), batch, tmp_path)
    ours = in_onnxruntime(exported(model, "onnx", tmp_path / "ours") / "model.onnx")
    assert ratios(which, {**usual, "this export": ours}, batch, base=2)["this export"] > 1.05


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("which", ["dense", "slim"])
def test_int8_in_onnxruntime(request: pytest.FixtureRequest, tmp_path: Path, which: str, batch: int) -> None:
    model = request.getfixturevalue(which)
    sides = {
        name: in_onnxruntime(exported(model, "onnx", tmp_path / name, precision=name) / "model.onnx")
        for name in ("fp32", "int8")
    }
    assert ratios(which, sides, batch)["int8"] > 1.0


@pytest.mark.skipif(not HAS_BF16, reason="the processor has no AVX512-bf16")
@pytest.mark.parametrize("batch", [1, 8])
def test_bfloat16_in_openvino(dense: Model, tmp_path: Path, batch: int) -> None:
    usual = default_exports(timms(dense), batch, tmp_path)
    ours = in_onnxruntime(exported(dense, "onnx", tmp_path / "onnx") / "model.onnx")
    folder = exported(dense, "openvino", tmp_path / "openvino", precision="bf16")
    with runtime("openvino").open(folder, limits.cores()) as session:
        found = ratios("dense", {**usual, "onnxruntime fp32": ours, "openvino bf16": session.run}, batch, base=2)
    assert found["openvino bf16"] > 1.6
