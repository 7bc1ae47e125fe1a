"""Training runs."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.records.schema import since


@dataclass(frozen=True)
class Evaluation:
    """Training loss and validation accuracy at a step."""

    step: int
    train_loss: float
    """Mean over the steps since the previous evaluation."""
    accuracy: dict[str, float]
    """Accuracy on the validation images of each source domain; empty if they have no labels."""
    agreement: dict[str, float] = since(2, {})
    """Fraction of these images with the teacher's prediction, of training that matches a teacher; else empty."""


@dataclass(frozen=True)
class TrainingHistory:
    """Training run of a model, and the selected step."""

    objective: str
    steps: int
    seconds: float
    evaluations: tuple[Evaluation, ...]
    selected_step: int
    schema: int = 2
