"""Engines of an incompatible version or for another GPU are refused before loading."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolkit import hashing, records
from toolkit.bench.runtimes import runtime
from toolkit.bench.runtimes.tensorrt import mismatch
from toolkit.errors import DeviceUnreachable, WeightsError, WrongMachine
from toolkit.preprocessing import Preprocessing
from toolkit.records import Artifact, EngineTraits, ModelInfo, TensorSpec

PREPROCESSING = Preprocessing((0.5,) * 3, (0.25,) * 3, "bicubic", 1.0, "squash", "timm")
MODEL = ModelInfo("name", {}, ("a", "b"), 2, PREPROCESSING, (), (), 1, 1, "00")


def engine(
    target: str = "tensorrt", architecture: str | None = "sm_87", *, newer: bool = False, any_gpu: bool = False
) -> Artifact:
    return Artifact(
        file="model.engine",
        sha256="00",
        target=target,
        precision="fp16",
        inputs=(TensorSpec("images", "float32", ("batch", 3, 2, 2)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
        model=MODEL,
        built_with={"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1"},
        engine=EngineTraits(3, version_compatible=newer, hardware_compatible=any_gpu),
        device_architecture=architecture,
    )


@pytest.mark.parametrize(
    ("artifact", "version", "gpu", "reason"),
    [
        (engine(), "10.3.0", "sm_87", ""),
        (engine(), "11.4.0", "sm_87", "was built by tensorrt 10.3.0, and 11.4.0 is installed"),
        (engine(newer=True), "11.4.0", "sm_87", ""),
        (engine(newer=True), "10.2.0", "sm_87", "was built by tensorrt 10.3.0, and 10.2.0 is installed"),
        (engine(), "10.3.0", "sm_90", "was built for sm_87, and this GPU is sm_90"),
        (engine(any_gpu=True), "10.3.0", "sm_120", ""),
        (engine(any_gpu=True), "10.3.0", "sm_75", "was built for sm_87, and this GPU is sm_75"),
        (engine("rtx", "sm_86,sm_89"), "1.7.1", "sm_89", ""),
        (engine("rtx", "sm_86,sm_89"), "1.7.1", "sm_120", "was built for sm_86,sm_89, and this GPU is sm_120"),
        (engine(architecture=None), "10.3.0", "sm_90", ""),
        (replace(engine(), built_with={}), "10.3.0", "sm_87", "does not record the version of tensorrt that built it"),
        (
            replace(engine(newer=True), built_with={}),
            "10.3.0",
            "sm_87",
            "does not record the version of tensorrt that built it",
        ),
    ],
)
def test_the_mismatch_is_described(artifact: Artifact, version: str, gpu: str, reason: str) -> None:
    assert mismatch(artifact, version, gpu) == reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.engine").write_bytes(b"an engine")
    record = engine("rtx", "sm_80", any_gpu=True)
    record = replace(record, sha256=hashing.sha256(tmp_path / "model.engine"))
    records.save(record, tmp_path / "artifact.json")
    return tmp_path


@pytest.mark.parametrize(
    ("version", "gpu", "message"),
    [
        ("1.8.0", "sm_89", "was built by tensorrt_rtx 1.7.1, and 1.8.0 is installed"),
        ("1.7.1", "sm_75", "was built for sm_80, and this GPU is sm_75"),
    ],
)
def test_an_incompatible_engine_is_refused_before_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, gpu: str, message: str
) -> None:
    """Only the versions are queried: the file is not a real engine and would not load."""
    installed = SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", installed)
    monkeypatch.setattr("toolkit.machine.cuda.architecture", lambda: gpu)
    with pytest.raises(WrongMachine, match=message) as caught:
        runtime("tensorrt").open(folder, 1)
    assert "export it again" in caught.value.hint


def test_a_changed_engine_is_refused(folder: Path) -> None:
    (folder / "model.engine").write_bytes(b"another engine")
    with pytest.raises(WeightsError, match="hash"):
        runtime("tensorrt").open(folder, 1)


def test_a_missing_gpu_is_reported(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceUnreachable, match=r"no NVIDIA (driver|GPU)") as caught:
        runtime("tensorrt").open(folder, 1)
    assert caught.value.exit_code == 4
