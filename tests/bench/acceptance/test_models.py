"""Dense and slim models are measured like any benchmark's."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit import hashing, recipe, records
from toolkit.bench.acceptance import models
from toolkit.bench.acceptance.models import Mode, Step
from toolkit.records import ModelInfo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.make_models("deit_tiny_patch16_224", folder, recipe.Prune(criterion="random", budget="macs=0.5"), 32)
    return folder


def test_the_slim_model_has_half_the_macs_and_is_made_once(folder: Path) -> None:
    dense, slim = (records.load(ModelInfo, folder / name / "model.json") for name in ("dense", "slim"))
    assert 0.45 < slim.macs / dense.macs <= 0.5
    before = hashing.sha256(folder / "slim" / "model.safetensors")
    models.make_models("deit_tiny_patch16_224", folder, recipe.Prune(criterion="random", budget="macs=0.1"), 32)
    assert hashing.sha256(folder / "slim" / "model.safetensors") == before


def test_both_models_are_measured_together(folder: Path) -> None:
    report = models.measure(Step("deit_tiny_patch16_224", "eager", 1), folder, Mode("torch", "host"))
    assert report.failure == ""
    assert report.bench is not None
    assert [(each.subject, len(each.latency_ms)) for each in report.bench.measurements] == [("dense", 30), ("slim", 30)]
    assert report.macs["dense"] > report.macs["slim"]


def test_a_failure_is_reported(folder: Path) -> None:
    report = models.measure(Step("deit_tiny_patch16_224", "graph", 1), folder, Mode("torch", "cuda-graph"))
    assert report.bench is None
    assert report.failure.startswith("BadInput: this runtime takes images from host memory")
