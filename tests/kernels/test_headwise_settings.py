"""Which kernel, how keys are cut, and what a file of measured settings changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from toolkit.kernels import headwise_settings, tuned
from toolkit.kernels.headwise_settings import Plan, Settings, Work, by_rule
from toolkit.kernels.tuned import Tuned, size_of

HEADS = ((64, 64), (40, 24))


def test_keys_are_cut_into_few_powers_of_two() -> None:
    for tokens in range(1, 321):
        found = headwise_settings.pieces(tokens)
        assert sum(found) >= tokens
        assert 1 <= len(found) <= headwise_settings.PIECES
        assert all(piece >= 16 and piece & (piece - 1) == 0 for piece in found)
        assert list(found) == sorted(set(found), reverse=True)
    assert headwise_settings.pieces(197) == (128, 64, 16)
    assert headwise_settings.pieces(257) == (256, 16)
    assert headwise_settings.pieces(50) == (64,)


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
def test_which_kernel(
    tokens: int, heads: tuple[tuple[int, int], ...], has_bias: bool, capability: int, kernel: str
) -> None:
    assert by_rule(Work("forward", tokens, heads, has_bias), capability).kernel == kernel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where measured settings are kept meanwhile, of a machine whose GPU is called like this."""
    monkeypatch.setattr(tuned, "FOLDER", tmp_path / "tuned")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Made Up")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    tuned.measured.cache_clear()
    tuned.plan.cache_clear()
    return tmp_path / "tuned"


def test_what_was_measured_is_used_and_rules_hold_for_the_rest(folder: Path) -> None:
    gpu, work = torch.device("cuda"), Work("forward", 197, HEADS)
    rule = by_rule(work, 90)
    assert tuned.plan(work, gpu) == rule
    free: Settings = {"TILE": 128, "KEYS": 32, "num_warps": 8, "num_stages": 3}
    file = tuned.save("NVIDIA Made Up", [Tuned(size_of(work), "online", free, 50.0, 60.0, "made with")])
    assert file == folder / "NVIDIA-Made-Up.json"
    tiles: Settings = {"DQ": 64, "DV": 64, "HAS_BIAS": False, "WITH_LSE": False, "enable_fp_fusion": True}
    assert tuned.plan(work, gpu) == Plan("online", tiles | free)
    assert tuned.plan(work._replace(tokens=201), gpu).kernel == "online", "as many rows of products"
    assert tuned.plan(work._replace(tokens=210), gpu).kernel == "whole_row"
    assert tuned.plan(work._replace(has_bias=True), gpu).kernel == "whole_row"
    assert tuned.plan(work, torch.device("cpu")) == rule

    other = Tuned(size_of(work._replace(has_bias=True)), "online", free, 70.0, 80.0, "made with")
    tuned.save("NVIDIA Made Up", [other])
    assert len(tuned.measured("NVIDIA Made Up")) == 2, "what was known before is kept"


def test_a_file_of_another_form(folder: Path) -> None:
    folder.mkdir()
    (folder / "NVIDIA-Made-Up.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(ValueError, match=r"run python -m toolkit\.kernels\.tune again"):
        tuned.plan(Work("forward", 197, HEADS), torch.device("cuda"))


@pytest.mark.parametrize(
    "content", [{}, {"fastest": [{"size": {}}]}, {"fastest": [{"size": {"tokens": 1}, "us": 1.0}]}]
)
def test_a_damaged_file(folder: Path, content: dict[str, object]) -> None:
    folder.mkdir()
    (folder / "NVIDIA-Made-Up.json").write_text(json.dumps({"schema": 1, **content}))
    with pytest.raises(ValueError, match="is damaged"):
        tuned.plan(Work("forward", 197, HEADS), torch.device("cuda"))


@pytest.mark.parametrize("file", sorted(tuned.FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_a_file_that_ships_is_read(file: Path) -> None:
    """Skipped as long as there is none."""
    assert tuned.measured(json.loads(file.read_text())["gpu"])
