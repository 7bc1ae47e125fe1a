"""What CUDA says is said in our words."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit import gpu
from toolkit.errors import DeviceUnreachable

cuda = pytest.importorskip("cuda.bindings.runtime")


@pytest.mark.parametrize(
    ("status", "driver", "said", "hint"),
    [
        ("cudaErrorInsufficientDriver", 0, "this machine has no NVIDIA driver", "a machine with an NVIDIA GPU"),
        ("cudaErrorInsufficientDriver", 12080, "the NVIDIA driver here is for CUDA 12.8", "'cuda-bindings<13'"),
        ("cudaErrorNoDevice", 13000, "there is no NVIDIA GPU that may be used", "CUDA_VISIBLE_DEVICES"),
        ("cudaErrorMemoryAllocation", 13000, "the memory of the GPU is full", "smaller batches"),
        ("cudaErrorIllegalAddress", 13000, r"the GPU, or its driver, fails \(IllegalAddress\)", "nvidia-smi"),
    ],
)
def test_failures(monkeypatch: pytest.MonkeyPatch, status: str, driver: int, said: str, hint: str) -> None:
    success = cuda.cudaError_t.cudaSuccess
    monkeypatch.setattr(cuda, "cudaDriverGetVersion", lambda: (success, driver))
    answer: tuple[Any, ...] = (getattr(cuda.cudaError_t, status), None)
    with pytest.raises(DeviceUnreachable, match=said) as caught:
        gpu.checked(answer)
    assert hint in caught.value.hint
    assert "cudaError" not in str(caught.value)


def test_values() -> None:
    assert gpu.checked((cuda.cudaError_t.cudaSuccess, 7)) == 7
    assert gpu.checked((cuda.cudaError_t.cudaSuccess,)) is None
