"""CUDA errors are reported in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit import gpu
from toolkit.errors import DeviceUnreachable

cuda = pytest.importorskip("cuda.bindings.runtime")


@pytest.mark.parametrize(
    ("status", "driver", "message", "hint"),
    [
        ("cudaErrorInsufficientDriver", 0, "this machine has no NVIDIA driver", "a machine with an NVIDIA GPU"),
        ("cudaErrorInsufficientDriver", 12080, "the NVIDIA driver supports CUDA 12.8", "'cuda-bindings<13'"),
        ("cudaErrorNoDevice", 13000, "there is no usable NVIDIA GPU", "CUDA_VISIBLE_DEVICES"),
        ("cudaErrorMemoryAllocation", 13000, "the GPU is out of memory", "smaller batch"),
        ("cudaErrorIllegalAddress", 13000, r"the GPU or its driver failed \(IllegalAddress\)", "nvidia-smi"),
    ],
)
def test_failed_calls_raise(monkeypatch: pytest.MonkeyPatch, status: str, driver: int, message: str, hint: str) -> None:
    success = cuda.cudaError_t.cudaSuccess
    monkeypatch.setattr(cuda, "cudaDriverGetVersion", lambda: (success, driver))
    result: tuple[Any, ...] = (getattr(cuda.cudaError_t, status), None)
    with pytest.raises(DeviceUnreachable, match=message) as caught:
        gpu.checked(result)
    assert hint in caught.value.hint
    assert "cudaError" not in str(caught.value)


def test_successful_calls_return_the_value() -> None:
    assert gpu.checked((cuda.cudaError_t.cudaSuccess, 7)) == 7
    assert gpu.checked((cuda.cudaError_t.cudaSuccess,)) is None
