"""Exports of models of realistic size stay within a laptop's time and memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolkit import recipe, records
from toolkit.export.artifact import export
from toolkit.export.calibrate import DomainSample, Sample
from toolkit.export.engine import EngineLayers
from toolkit.models.build import build
from toolkit.models.model import Model
from toolkit.records import Artifact

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_120")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
ENGINE_SECONDS = 30

PROGRAM = """
import json, resource, sys, tempfile, time
from dataclasses import replace
from pathlib import Path
from toolkit import recipe
from toolkit.export.artifact import export
from toolkit.models.build import build

model = build(recipe.Model(name=sys.argv[1], weights="none"), ("cat", "dog"), seed=0)
model = replace(model, info=replace(model.info, weights_sha256="ab" * 32))
with tempfile.TemporaryDirectory() as out:
    start = time.perf_counter()
    artifact = export("onnx", model, recipe.Export(), Path(out))
    seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": seconds, "peak_bytes": peak, "difference": artifact.max_abs_difference}))
"""


@pytest.mark.slow
@pytest.mark.speed
def test_vit_base_to_onnx(measured: Callable[[str, str], dict[str, float]]) -> None:
    usage = measured(PROGRAM, "vit_base_patch16_224")
    assert usage["seconds"] < 60
    assert usage["peak_bytes"] < 4 << 30


@pytest.fixture(scope="module")
def deit_tiny(halved: Callable[..., Model]) -> Callable[..., Model]:
    """`deit_tiny(heads, depth)`: dense ("even" heads), or pruned to half of its MACs inside the blocks ("uneven")."""

    def create(heads: str, depth: int = 12) -> Model:
        settings = recipe.Model(name="deit_tiny_patch16_224", weights="none", args={"depth": depth})
        model = build(settings, ("cat", "dog"), seed=0)
        dense = replace(model, info=replace(model.info, weights_sha256="ab" * 32))
        return dense if heads == "even" else halved(dense, "head", "qk", "v", "mlp")

    return create


def build_engine(model: Model, precision: str, architecture: str, out: Path) -> tuple[Artifact, float]:
    """The engine, and its build time in seconds."""
    images = np.random.default_rng(0).standard_normal((8, 3, 224, 224), dtype=np.float32)
    with torch.inference_mode():
        labels = model.module(torch.from_numpy(images)).argmax(1).numpy()
    sample = Sample(images, (DomainSample("one", images, labels),), 0.25)
    options: dict[str, Any] = {"precision": precision, "rtx": {"gpus": architecture}, "batch_size": (1, 8, 64)}
    start, started = 0.0, False

    def progress(done: int, total: int, message: str = "") -> None:
        nonlocal start, started
        if not started and message and "block" not in message:  # the builder's first message
            start, started = time.perf_counter(), True

    artifact = export("rtx", model, recipe.Export.model_validate(options), out, sample, progress)
    return artifact, time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.speed
@pytest.mark.parametrize("case", [*itertools.product(("even", "uneven"), PRECISIONS, ARCHITECTURES)], ids="-".join)
def test_engines_of_deit_tiny(deit_tiny: Callable[..., Model], tmp_path: Path, case: tuple[str, ...]) -> None:
    heads, precision, architecture = case
    artifact, seconds = build_engine(deit_tiny(heads), precision, architecture, tmp_path)
    fused = [block.status for block in artifact.fusion].count("fused")
    print(*case, f"{seconds:.1f} s,", f"fused in {fused} of 12 blocks")
    assert seconds < ENGINE_SECONDS
    check_engine(artifact, tmp_path, case, 12)


@pytest.mark.slow
def test_an_engine_of_three_blocks_of_deit_tiny(deit_tiny: Callable[..., Model], tmp_path: Path) -> None:
    """A quick case; test_tensorrt.py builds small models in every precision and for every GPU."""
    case = ("uneven", "int8", "sm_120")
    artifact, _ = build_engine(deit_tiny("uneven", 3), *case[1:], tmp_path)
    check_engine(artifact, tmp_path, case, 3)


def check_engine(artifact: Artifact, folder: Path, case: tuple[str, ...], blocks: int) -> None:
    _, precision, architecture = case
    statuses = [block.status for block in artifact.fusion]
    assert artifact.device_architecture == architecture
    assert artifact.inputs[0].shape[0] == "batch"
    assert (artifact.batch.least, artifact.batch.most) == (1, 64)
    assert len(statuses) == blocks
    assert "unknown" not in statuses
    assert ("fused" in statuses) == (precision != "fp32")
    assert records.load(EngineLayers, folder / "layers.json").layers


def test_fused_attention_reads_the_projections_output_in_place(deit_tiny: Callable[..., Model], tmp_path: Path) -> None:
    """No layer of the engine copies queries, keys or values."""
    build_engine(deit_tiny("even", 3), "fp16", "sm_89", tmp_path)
    layers = records.load(EngineLayers, tmp_path / "layers.json").layers
    attention = [layer for layer in layers if any(node.startswith("blocks.1.attn/") for node in layer.nodes)]
    assert [layer.name.partition("_myl")[0] for layer in attention] == ["_gemm_mha_v2"]
