"""Finished results of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageRecord:
    """`stage.json` of a finished result: its inputs and the toolkit's version."""

    stage: str
    toolkit: str
    inputs: dict[str, str]
    """Hash of each input; a result with equal inputs is up to date."""
    seconds: float
    finished_at: str
    """ISO 8601, UTC."""
    schema: int = 1
