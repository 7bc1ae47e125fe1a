"""Checkpoints: everything needed to resume training with identical results.

A checkpoint is one file of tensors and plain values, read with `weights_only=True`, and replaced atomically: a kill
during a write leaves the previous one.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from toolkit import records
from toolkit.errors import RunFolderError, StorageError, plainly
from toolkit.records import TrainingHistory

Weights = dict[str, Tensor]
ExtensionState = dict[Literal["modules", "state"], Weights]
"""The state dict of an extension's modules, and its other state."""


def copied(module: nn.Module) -> Weights:
    """A copy of the module's state dict on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}


@dataclass(frozen=True)
class Checkpoint:
    """State of training after `history.steps` steps."""

    identity: str
    """Hash of everything that determines the rest of training; only a run with the same identity may resume."""
    history: TrainingHistory
    module: Weights
    """Current weights."""
    best: Weights
    """Weights of the evaluation selected so far."""
    optimizer: dict[str, Any]
    """Optimizer.state_dict() of torch."""
    extensions: list[ExtensionState]
    """State of each training extension, in order."""


def save(checkpoint: Checkpoint, file: Path) -> None:
    """Write the file; raises StorageError and keeps the previous file if that fails."""
    content = {
        "identity": checkpoint.identity,
        "history": records.dumps(checkpoint.history),
        "module": checkpoint.module,
        "best": checkpoint.best,
        "optimizer": checkpoint.optimizer,
        "extensions": checkpoint.extensions,
    }
    partial = file.with_name(f"{file.name}.partial")
    try:
        torch.save(content, partial)
        partial.replace(file)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {file}: {plainly(error)}",
            "free disk space and run the command again: training resumes",
        ) from error


def load(file: Path, identity: str) -> Checkpoint | None:
    """Checkpoint of a run with the same identity, else None.

    Raises RunFolderError for a file that is not a checkpoint of this toolkit.
    """
    if not file.exists():
        return None
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        if content["identity"] != identity:
            return None
        history = records.loads(TrainingHistory, content["history"], str(file))
        tensors = content["module"], content["best"], content["optimizer"], content["extensions"]
        return Checkpoint(identity, history, *tensors)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{file} is not a checkpoint of this toolkit: {plainly(error)}", "delete it to train from the beginning"
        ) from error
