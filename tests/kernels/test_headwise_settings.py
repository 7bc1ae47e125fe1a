"""Heuristic configurations, key chunks, and files of tuned configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from toolkit.kernels import headwise_settings, tuned
from toolkit.kernels.headwise_settings import KernelConfig, Settings, Workload, heuristic_config
from toolkit.kernels.tuned import TunedConfig, tuning_key

HEADS = ((64, 64), (40, 24))


def test_key_chunks_are_few_powers_of_two() -> None:
    for tokens in range(1, 321):
        chunks = headwise_settings.key_chunks(tokens)
        assert sum(chunks) >= tokens
        assert 1 <= len(chunks) <= headwise_settings.MAX_CHUNKS
        assert all(chunk >= 16 and chunk & (chunk - 1) == 0 for chunk in chunks)
        assert list(chunks) == sorted(set(chunks), reverse=True)
    assert headwise_settings.key_chunks(197) == (128, 64, 16)
    assert headwise_settings.key_chunks(257) == (256, 16)
    assert headwise_settings.key_chunks(50) == (64,)


@pytest.mark.parametrize(
    ("tokens", "heads", "has_bias", "capability", "kernel"),
    [
        (197, HEADS, True, 80, "whole_row"),
        (257, HEADS, True, 90, "online"),
        (257, HEADS, False, 90, "whole_row"),
        (257, HEADS, False, 80, "online"),
        (197, ((72, 64),), False, 90, "online"),
    ],
)
def test_kernel_by_heuristic(
    tokens: int, heads: tuple[tuple[int, int], ...], has_bias: bool, capability: int, kernel: str
) -> None:
    assert heuristic_config(Workload("forward", tokens, heads, has_bias), capability).kernel == kernel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of tuned configurations, on a machine with a GPU of a made-up name."""
    monkeypatch.setattr(tuned, "FOLDER", tmp_path / "tuned")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Made Up")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    tuned.load.cache_clear()
    tuned.best_config.cache_clear()
    return tmp_path / "tuned"


def test_tuned_configurations_take_precedence_over_the_heuristic(folder: Path) -> None:
    gpu, workload = torch.device("cuda"), Workload("forward", 197, HEADS)
    heuristic = heuristic_config(workload, 90)
    assert tuned.best_config(workload, gpu) == heuristic
    tunable: Settings = {"BLOCK_Q": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3}
    file = tuned.save("NVIDIA Made Up", [TunedConfig(tuning_key(workload), "online", tunable, 50.0, 60.0, "versions")])
    assert file == folder / "NVIDIA-Made-Up.json"
    determined: Settings = {
        "DIM_QK": 64,
        "DIM_V": 64,
        "HAS_BIAS": False,
        "HAS_KEY_BIAS": False,
        "WITH_LSE": False,
        "enable_fp_fusion": True,
    }
    assert tuned.best_config(workload, gpu) == KernelConfig("online", determined | tunable)
    assert tuned.best_config(workload._replace(num_keys=201), gpu).kernel == "online", "the same multiple of 16"
    assert tuned.best_config(workload._replace(num_keys=210), gpu).kernel == "whole_row"
    assert tuned.best_config(workload._replace(has_bias=True), gpu).kernel == "whole_row"
    assert tuned.best_config(workload, torch.device("cpu")) == heuristic

    other = TunedConfig(tuning_key(workload._replace(has_bias=True)), "online", tunable, 70.0, 80.0, "versions")
    tuned.save("NVIDIA Made Up", [other])
    assert len(tuned.load("NVIDIA Made Up")) == 2, "earlier configurations are kept"


def test_a_file_of_another_schema(folder: Path) -> None:
    folder.mkdir()
    (folder / "NVIDIA-Made-Up.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(ValueError, match=r"run python -m toolkit\.kernels\.tune again"):
        tuned.best_config(Workload("forward", 197, HEADS), torch.device("cuda"))


@pytest.mark.parametrize(
    "content", [{}, {"configs": [{"key": {}}]}, {"configs": [{"key": {"num_keys": 1}, "us": 1.0}]}]
)
def test_a_damaged_file(folder: Path, content: dict[str, object]) -> None:
    folder.mkdir()
    (folder / "NVIDIA-Made-Up.json").write_text(json.dumps({"schema": 1, **content}))
    with pytest.raises(ValueError, match="is damaged"):
        tuned.best_config(Workload("forward", 197, HEADS), torch.device("cuda"))


@pytest.mark.parametrize("file", sorted(tuned.FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_a_shipped_file_loads(file: Path) -> None:
    """Skipped while no file ships."""
    assert tuned.load(json.loads(file.read_text())["gpu"])
