"""Training runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """Training loss and validation accuracy at a step."""

    step: int
    train_loss: float
    """Mean over the steps since the previous evaluation."""
    accuracy: dict[str, float]
    """Accuracy on the validation images of each source domain."""


@dataclass(frozen=True)
class TrainingHistory:
    """Training run of a model, and the selected step."""

    objective: str
    steps: int
    seconds: float
    evaluations: tuple[Evaluation, ...]
    selected_step: int
    schema: int = 1
