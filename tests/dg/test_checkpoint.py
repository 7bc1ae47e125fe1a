from __future__ import annotations

from pathlib import Path

import pytest
import torch

from toolkit.dg import checkpoint
from toolkit.dg.checkpoint import Checkpoint
from toolkit.errors import RunFolderError, StorageError
from toolkit.records import Evaluation, TrainingHistory

HISTORY = TrainingHistory("erm", 20, 1.25, (Evaluation(10, 0.1 + 0.2, {"art": 1 / 3}),), 10)


def make_checkpoint(identity: str = "this", value: float = 0.5) -> Checkpoint:
    weights = {"layer.weight": torch.full((2, 3), value)}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return Checkpoint(identity, HISTORY, weights, {}, optimizer, [{"modules": {}, "state": weights}])


def test_a_checkpoint_round_trips_exactly(tmp_path: Path) -> None:
    checkpoint.save(make_checkpoint(), tmp_path / "c.pt")
    loaded = checkpoint.load(tmp_path / "c.pt", "this")
    assert loaded is not None
    assert loaded.history == HISTORY
    assert torch.equal(loaded.module["layer.weight"], make_checkpoint().module["layer.weight"])
    assert loaded.optimizer == make_checkpoint().optimizer
    assert torch.equal(loaded.extensions[0]["state"]["layer.weight"], make_checkpoint().module["layer.weight"])
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_the_checkpoint_of_another_run_is_not_used(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "c.pt", "this") is None
    checkpoint.save(make_checkpoint("other"), tmp_path / "c.pt")
    assert checkpoint.load(tmp_path / "c.pt", "this") is None


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(make_checkpoint(), tmp_path / "c.pt")

    def full(content: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(StorageError, match="No space left"):
        checkpoint.save(make_checkpoint(value=0.75), tmp_path / "c.pt")
    loaded = checkpoint.load(tmp_path / "c.pt", "this")
    assert loaded is not None
    assert loaded.module["layer.weight"][0, 0] == 0.5
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(RunFolderError, match="not a checkpoint of this toolkit"):
        checkpoint.load(tmp_path / "c.pt", "this")


def test_a_torch_file_with_other_content_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "c.pt")
    with pytest.raises(RunFolderError, match="not a checkpoint of this toolkit"):
        checkpoint.load(tmp_path / "c.pt", "this")


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    torch.save({"identity": Path("made by a constructor")}, tmp_path / "c.pt")
    with pytest.raises(RunFolderError, match="not a checkpoint of this toolkit"):
        checkpoint.load(tmp_path / "c.pt", "this")
