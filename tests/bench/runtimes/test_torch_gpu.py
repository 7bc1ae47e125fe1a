"""PyTorch on a GPU, tested on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.bench.runtimes import runtime
from toolkit.bench.runtimes.torch_cuda import TorchGpu
from toolkit.errors import BadInput, DeviceUnreachable
from toolkit.models import store

IMAGES = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)


def test_logits_are_those_of_the_model_in_bfloat16(folders: Path) -> None:
    with torch.inference_mode():
        expected = store.load(folders / "slim").module(torch.from_numpy(IMAGES)).numpy()
    with TorchGpu("torch-cuda", device="cpu").open(folders / "slim", 1) as session:
        logits = session.run(IMAGES)
        assert session.spec.sha256 == store.load(folders / "slim").info.weights_sha256
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - expected).max() < 0.05 * np.ptp(expected)
    with pytest.raises(RuntimeError, match="closed"):
        session.run(IMAGES)


def test_a_call_on_the_device_has_no_copies(folders: Path) -> None:
    with TorchGpu("torch-cuda", device="cpu").open(folders / "slim", 1) as session:
        logits = session.call(IMAGES, on_device=True)()
        assert isinstance(logits, torch.Tensor)
        np.testing.assert_array_equal(logits.float().numpy(), session.call(IMAGES, on_device=False)())


def test_the_compiled_module_is_what_runs(folders: Path) -> None:
    compiled: list[torch.nn.Module] = []

    def compiler(module: torch.nn.Module) -> torch.nn.Module:
        compiled.append(module)
        return torch.nn.Flatten()

    with TorchGpu("torch-compiled", compiler, "cpu").open(folders / "slim", 1) as session:
        assert session.run(IMAGES).shape == (3, 3072)
    assert len(compiled) == 1


@pytest.mark.parametrize("name", ["torch-cuda", "torch-compiled"])
def test_artifacts_and_machines_without_a_gpu_are_refused(
    name: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=f"so {name} cannot run it"):
        runtime(name).open(folders / "slim-onnx", 1)
    with pytest.raises(DeviceUnreachable, match="no usable NVIDIA GPU"):
        runtime(name).open(folders / "slim", 1)


def test_clocks_of_a_gpu_need_a_runtime_on_it(folders: Path) -> None:
    with runtime("torch").open(folders / "slim", 1) as session, pytest.raises(BadInput, match="host memory"):
        session.call(IMAGES, on_device=True)
