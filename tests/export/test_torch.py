"""`torch.export` files: compiled if there is a compiler, else a program."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from toolkit import records
from toolkit.bench.runtimes import runtime
from toolkit.errors import StorageError, WrongMachine
from toolkit.export.torch import compiler
from toolkit.export.torch_program import cpu_kind
from toolkit.models import native
from toolkit.models.model import Model
from toolkit.records import Artifact

Models = Callable[..., Model]
Exported = Callable[..., Artifact]

IMAGES = np.random.default_rng(1).standard_normal((3, 3, 16, 16), dtype=np.float32)


def eager(model: Model) -> np.ndarray:
    with torch.inference_mode():
        return model.module(torch.from_numpy(IMAGES)).numpy()


@pytest.mark.no_cover  # the compiler is written in Python: coverage would double its time
@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_compiled_code_and_its_program_give_the_models_logits(
    models: Models, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")  # otherwise three programs are compiled to see if they can be
    model = models(heads="uneven")
    artifact = exported(model, "torch")
    assert artifact.compiled is True
    assert artifact.device_architecture == cpu_kind()
    assert artifact.extra_files.keys() == {"program.pt2"}
    with runtime("torch").open(tmp_path / "out", threads=1) as session:
        np.testing.assert_allclose(session.run(IMAGES), eager(model), atol=1e-5)
    program = torch.export.load(tmp_path / "out" / "program.pt2").module()
    np.testing.assert_allclose(program(torch.from_numpy(IMAGES)).detach().numpy(), eager(model), atol=1e-5)
    records.save(replace(artifact, device_architecture="aarch64-0"), tmp_path / "out" / "artifact.json")
    with pytest.raises(WrongMachine, match=r"was compiled for aarch64-0 and torch .*, and this is") as caught:
        runtime("torch").open(tmp_path / "out", threads=1)
    assert "program.pt2" in caught.value.hint


@pytest.mark.parametrize("reason", ["no compiler", "no-compile"])
def test_a_program_without_compiled_code(
    models: Models, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "no compiler":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    model = models()
    artifact = exported(model, "torch", compile=reason == "no compiler")
    assert artifact.compiled is False
    assert artifact.notes == (("not compiled: there is no C++ compiler",) if reason == "no compiler" else ())
    assert artifact.device_architecture is None
    assert not artifact.extra_files
    with runtime("torch").open(tmp_path / "out", threads=1) as session:
        np.testing.assert_allclose(session.run(IMAGES), eager(model), atol=1e-5)


def test_an_emulated_dtype_is_noted(models: Models, exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "emulated", lambda precision: precision == "bf16")
    artifact = exported(models(), "torch", compile=False, precision="bf16")
    assert artifact.notes == ("this CPU emulates bf16: fp32 is faster here",)


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_too_little_disk_space_to_compile(models: Models, exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=r"not enough disk space in .* to compile"):
        exported(models(), "torch")


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("inputs", [{"batch_size": (1, 4, 8), "input": "uint8"}, {"batch_size": (3,)}], ids=str)
def test_every_precision_and_input_compiles(
    models: Models, exported: Exported, name: str, precision: str, inputs: dict[str, object]
) -> None:
    artifact = exported(models(name, "uneven"), "torch", precision=precision, **inputs)
    assert artifact.compiled is True
    assert artifact.max_abs_difference is not None
