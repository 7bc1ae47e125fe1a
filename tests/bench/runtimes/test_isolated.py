"""Exported files are run in a process of their own, with the same answers and the same refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from toolkit.bench.runtimes import runtime
from toolkit.bench.runtimes.isolated import IsolatedSession, opened
from toolkit.errors import UnknownName, WeightsError


@pytest.mark.parametrize(("name", "reads"), [("onnxruntime", "slim-onnx"), ("torch", "slim")])
def test_answers_are_the_same(name: str, reads: str, folders: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)
    with runtime(name).open(folders / reads, 1) as session:
        expected = session.run(images)
    with opened(folders / reads, name, 1) as session:
        assert isinstance(session, IsolatedSession) == (reads != "slim"), "PyTorch is in this process as it is"
        np.testing.assert_allclose(session.run(images), expected, atol=1e-6)
    with pytest.raises(RuntimeError, match="closed"):
        session.run(images)


def test_refusals_are_the_same(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown runtime 'onnx'"):
        opened(folders / "slim-onnx", "onnx", 1)
    folder = shutil.copytree(folders / "slim-onnx", tmp_path / "copy")
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(WeightsError, match="hash"):
        opened(folder, "onnxruntime", 1)
