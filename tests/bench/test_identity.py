from __future__ import annotations

from pathlib import Path

import pytest

from toolkit import hashing
from toolkit.bench.identity import identify
from toolkit.errors import BadInput


def test_an_artifact_is_named_by_its_file_and_a_model_by_its_weights(folders: Path) -> None:
    model, artifact = identify(folders / "slim"), identify(folders / "slim-onnx")
    assert model.sha256 == hashing.sha256(folders / "slim" / "model.safetensors")
    assert artifact.sha256 == hashing.sha256(folders / "slim-onnx" / "model.onnx")
    assert model.model == artifact.model
    assert model.model.image_size == 32


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="neither"):
        identify(tmp_path)
