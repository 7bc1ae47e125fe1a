from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from toolkit import hashing, records
from toolkit.bench.identity import identify
from toolkit.errors import BadInput
from toolkit.records import Artifact, BatchRange


def test_identity_hashes_the_artifact_or_the_weights(folders: Path) -> None:
    model, artifact = identify(folders / "slim"), identify(folders / "slim-onnx")
    assert model.sha256 == hashing.sha256(folders / "slim" / "model.safetensors")
    assert artifact.sha256 == hashing.sha256(folders / "slim-onnx" / "model.onnx")
    assert model.model == artifact.model
    assert model.model.image_size == 32


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="neither"):
        identify(tmp_path)


def test_an_engine_supports_the_batch_sizes_of_its_profile(folders: Path, tmp_path: Path) -> None:
    artifact = records.load(Artifact, folders / "slim-onnx" / "artifact.json")
    engine = replace(artifact, batch=BatchRange(2, most=8))
    records.save(engine, tmp_path / "artifact.json")
    for size in (2, 8):
        identify(tmp_path).check_batch(size)
    for size in (1, 9):
        with pytest.raises(BadInput, match=f"supports batch sizes 2 to 8, not {size}"):
            identify(tmp_path).check_batch(size)


def test_a_fixed_batch_size_is_the_only_one(folders: Path, tmp_path: Path) -> None:
    artifact = records.load(Artifact, folders / "slim-onnx" / "artifact.json")
    records.save(replace(artifact, batch=BatchRange.of([8])), tmp_path / "artifact.json")
    identify(folders / "slim-onnx").check_batch(1000)
    identify(tmp_path).check_batch(8)
    with pytest.raises(BadInput, match="fixed batch size of 8, got 1"):
        identify(tmp_path).check_batch(1)
