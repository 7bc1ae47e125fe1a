"""Training that was interrupted: everything needed to go on as if it had not been.

A checkpoint is one file of tensors and plain values, read with `weights_only=True`, and replaced as a whole: a kill
while it is written leaves the one before.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit import records
from toolkit.errors import RunFolderError, StorageError, plainly
from toolkit.records import TrainingHistory

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Training after `history.steps` steps."""

    identity: str
    """Hash of all that decides how training goes on; a checkpoint of another training is of no use."""
    history: TrainingHistory
    module: Weights
    """Where training stands."""
    best: Weights
    """The state that is selected so far."""
    optimizer: dict[str, Any]
    """As torch's Optimizer.state_dict() gives it."""


def save(checkpoint: Checkpoint, file: Path) -> None:
    """Write the file, or raise StorageError and leave the one before as it was."""
    content = {
        "identity": checkpoint.identity,
        "history": records.dumps(checkpoint.history),
        "module": checkpoint.module,
        "best": checkpoint.best,
        "optimizer": checkpoint.optimizer,
    }
    partial = file.with_name(f"{file.name}.partial")
    try:
        torch.save(content, partial)
        partial.replace(file)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {file}: {plainly(error)}",
            "make room on the disk and run the command again: training goes on",
        ) from error


def load(file: Path, identity: str) -> Checkpoint | None:
    """The checkpoint of this very training; None where there is none, or one of another training.

    Raises RunFolderError for a file that is no checkpoint of ours.
    """
    if not file.exists():
        return None
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        if content["identity"] != identity:
            return None
        history = records.loads(TrainingHistory, content["history"], str(file))
        return Checkpoint(identity, history, content["module"], content["best"], content["optimizer"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{file} is no checkpoint of this toolkit: {plainly(error)}", "remove it to train from the beginning"
        ) from error
