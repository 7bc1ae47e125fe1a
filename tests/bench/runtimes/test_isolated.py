"""Exported files run in a subprocess, with the same logits and the same errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from toolkit.bench.runtimes import runtime
from toolkit.bench.runtimes.isolated import IsolatedSession, open_session
from toolkit.errors import UnknownName, WeightsError


@pytest.mark.parametrize(("name", "subject"), [("onnxruntime", "slim-onnx"), ("torch", "slim")])
def test_logits_are_the_same(name: str, subject: str, folders: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)
    with runtime(name).open(folders / subject, 1) as session:
        expected = session.run(images)
    with open_session(folders / subject, name, 1) as session:
        assert isinstance(session, IsolatedSession) == (subject != "slim"), "model folders run in this process"
        np.testing.assert_allclose(session.run(images), expected, atol=1e-6)
    with pytest.raises(RuntimeError, match="closed"):
        session.run(images)


def test_errors_are_the_same(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown runtime 'onnx'"):
        open_session(folders / "slim-onnx", "onnx", 1)
    folder = shutil.copytree(folders / "slim-onnx", tmp_path / "copy")
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(WeightsError, match="hash"):
        open_session(folder, "onnxruntime", 1)
