"""Exports of models of real size stay within the time and memory that a laptop has."""

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
from toolkit.models import source

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
    found = measured(PROGRAM, "vit_base_patch16_224")
    assert found["seconds"] < 60
    assert found["peak_bytes"] < 4 << 30


@pytest.fixture(scope="module")
def deit_tiny(halved: Callable[..., Model]) -> Callable[..., Model]:
    """`deit_tiny(heads, depth)`: whole, or cut to half of its MACs along all axes inside of blocks, so that heads are
    uneven."""

    def made(heads: str, depth: int = 12) -> Model:
        settings = recipe.Model(name="deit_tiny_patch16_224", weights="none", args={"depth": depth})
        built = build(settings, ("cat", "dog"), seed=0)
        dense = replace(built, info=replace(built.info, weights_sha256="ab" * 32))
        return dense if heads == "even" else halved(dense, "head", "qk", "v", "mlp")

    return made


def build_engine(model: Model, precision: str, architecture: str, out: Path) -> tuple[Artifact, float]:
    """The engine, and the seconds that its builder took."""
    images = np.random.default_rng(0).standard_normal((8, 3, 224, 224), dtype=np.float32)
    with torch.inference_mode():
        labels = model.module(torch.from_numpy(images)).argmax(1).numpy()
    sample = Sample(images, (DomainSample("one", images, labels),), 0.25)
    options: dict[str, Any] = {"precision": precision, "gpus": architecture, "batch_size": (1, 8, 64)}
    start, begun = 0.0, False

    def report(done: int, total: int, what: str = "") -> None:
        nonlocal start, begun
        if not begun and what and "block" not in what:  # the builder's first word: what is before is not its work
            start, begun = time.perf_counter(), True

    artifact = export("rtx", model, recipe.Export.model_validate(options), out, sample, report)
    return artifact, time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.speed
@pytest.mark.parametrize("case", [*itertools.product(("even", "uneven"), PRECISIONS, ARCHITECTURES)], ids="-".join)
def test_engines_of_deit_tiny(deit_tiny: Callable[..., Model], tmp_path: Path, case: tuple[str, ...]) -> None:
    heads, precision, architecture = case
    artifact, seconds = build_engine(deit_tiny(heads), precision, architecture, tmp_path)
    fused = [each.status for each in artifact.fusion].count("fused")
    print(*case, f"{seconds:.1f} s,", f"fused in {fused} of 12 blocks")
    assert seconds < ENGINE_SECONDS
    check_engine(artifact, tmp_path, case, 12)


def test_an_engine_of_three_blocks_of_deit_tiny(deit_tiny: Callable[..., Model], tmp_path: Path) -> None:
    """Small models have one of every precision and for every GPU, in test_tensorrt.py."""
    case = ("uneven", "int8", "sm_120")
    artifact, _ = build_engine(deit_tiny("uneven", 3), *case[1:], tmp_path)
    check_engine(artifact, tmp_path, case, 3)


def check_engine(artifact: Artifact, folder: Path, case: tuple[str, ...], blocks: int) -> None:
    _, precision, architecture = case
    found = [each.status for each in artifact.fusion]
    assert artifact.device_architecture == architecture
    assert artifact.inputs[0].shape[0] == "batch"
    assert (artifact.options["least_batch"], artifact.options["largest_batch"]) == (1, 64)
    assert len(found) == blocks
    assert "unknown" not in found
    assert ("fused" in found) == (precision != "fp32")
    assert records.load(EngineLayers, folder / "layers.json").layers


def test_attention_reads_what_the_projection_wrote_where_it_lies(
    deit_tiny: Callable[..., Model], tmp_path: Path
) -> None:
    """No layer of the engine moves queries, keys or values between the two."""
    build_engine(deit_tiny("even", 3), "fp16", "sm_89", tmp_path)
    layers = records.load(EngineLayers, tmp_path / "layers.json").layers
    between = [layer for layer in layers if any(node.startswith("blocks.1.attn/") for node in layer.nodes)]
    assert [layer.name.partition("_myl")[0] for layer in between] == ["_gemm_mha_v2"]
