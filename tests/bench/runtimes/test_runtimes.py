"""Every runtime through its protocol: correct logits, and errors for unsuitable files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit import plugins, records
from toolkit.bench.runtimes import described, runtime
from toolkit.errors import BadInput, UnknownName, WeightsError
from toolkit.models import store
from toolkit.records import Artifact

EXPORTED = {f"slim-{name}": target.runtime for name, target in plugins.importable("toolkit.export")}
OPENED_BY = {"slim": "torch", **EXPORTED}
"""The runtime of each folder of the fixture."""
FOLDERS = {
    name: [folder for folder, runtime_name in OPENED_BY.items() if runtime_name == name]
    for name in plugins.names("toolkit.bench.runtimes")
    if not described(name).uses_gpu  # those are tested in test_tensorrt.py and test_torch_gpu.py
}
CASES = [(name, folder) for name, subjects in FOLDERS.items() for folder in subjects]


def test_every_runtime_opens_a_file() -> None:
    assert [name for name, folders in FOLDERS.items() if not folders] == ["null"]


@pytest.mark.parametrize(("name", "subject"), CASES)
def test_logits_match_the_model(name: str, subject: str, folders: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)
    with torch.inference_mode():
        expected = store.load(folders / "slim").module(torch.from_numpy(images)).numpy()
    assert np.ptp(expected) > 0.01
    with runtime(name).open(folders / subject, threads=1) as session:
        for batch in (1, 3):
            logits = session.run(images[:batch])
            assert logits.dtype == np.float32
            np.testing.assert_allclose(logits, expected[:batch], atol=1e-5)


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_an_unsupported_folder_is_refused(name: str, folders: Path) -> None:
    other = next(subjects[0] for runtime_name, subjects in FOLDERS.items() if subjects and runtime_name != name)
    with pytest.raises(BadInput, match=name):
        runtime(name).open(folders / other, threads=1)


@pytest.mark.parametrize(("name", "subject"), CASES)
def test_a_changed_file_is_refused(name: str, subject: str, folders: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folders / subject, tmp_path / "copy")
    file = next(path for path in sorted(folder.iterdir()) if path.suffix != ".json")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="hash"):
        runtime(name).open(folder, threads=1)


@pytest.mark.parametrize(("name", "subject"), CASES)
def test_a_missing_file_is_refused(name: str, subject: str, folders: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folders / subject, tmp_path / "copy")
    file = next(path for path in sorted(folder.iterdir()) if path.suffix != ".json")
    file.unlink()
    with pytest.raises(WeightsError, match="does not exist"):
        runtime(name).open(folder, threads=1)


@pytest.mark.parametrize(("name", "subject"), CASES)
def test_a_session_is_closed_at_the_end_of_its_block(name: str, subject: str, folders: Path) -> None:
    with runtime(name).open(folders / subject, threads=1) as session:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        session.run(np.zeros((1, 3, 32, 32), dtype=np.float32))


def test_onnxruntime_refuses_files_for_another_runtime(folders: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folders / "slim-onnx", tmp_path / "copy")
    record = replace(records.load(Artifact, folder / "artifact.json"), target="tensorrt")
    records.save(record, folder / "artifact.json")
    with pytest.raises(BadInput, match="tensorrt"):
        runtime("onnxruntime").open(folder, threads=1)


def test_onnxruntime_refuses_bf16(folders: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folders / "slim-onnx", tmp_path / "copy")
    record = replace(records.load(Artifact, folder / "artifact.json"), precision="bf16")
    records.save(record, folder / "artifact.json")
    with pytest.raises(BadInput, match="no bf16 kernels") as caught:
        runtime("onnxruntime").open(folder, threads=1)
    assert "--openvino" in caught.value.hint


def test_torch_uses_the_requested_threads_and_restores_the_count(folders: Path) -> None:
    before = torch.get_num_threads()
    with runtime("torch").open(folders / "slim", threads=before + 1) as session:
        session.run(np.zeros((1, 3, 32, 32), dtype=np.float32))
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_onnxruntime_keeps_stderr_clean(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with runtime("onnxruntime").open(folders / "slim-onnx", threads=1) as session:
        session.run(np.zeros((1, 3, 32, 32), dtype=np.float32))
    assert capfd.readouterr() == ("", "")


def test_an_unknown_runtime_suggests_the_closest() -> None:
    with pytest.raises(UnknownName, match="onnxruntime"):
        runtime("onnx-runtime")
