"""The stage `finetune`: its settings choose the extensions of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit import records
from toolkit.records import ModelInfo, TrainingHistory

FINETUNED = Path("runs/default/finetuned")


@pytest.mark.usefixtures("here")
def test_distillation_and_averaging_are_settings(command: Callable[..., Any]) -> None:
    def result() -> tuple[str, str]:
        history = records.load(TrainingHistory, FINETUNED / "history.json")
        return history.objective, records.load(ModelInfo, FINETUNED / "model.json").weights_sha256

    assert result()[0] == "erm, distillation and weight averaging"
    assert command("finetune", "--average-from", "0").code == 0
    averaged = result()[1]
    ended = command("finetune", "--no-average")
    assert ended.code == 0, ended.err
    objective, distilled = result()
    assert objective == "erm and distillation"
    assert averaged != distilled
    assert command("finetune", "--no-average", "--no-distill").code == 0
    assert command("finetune", "--distill-weight", "0.9", "--average-from", "0.9").made == [], "without effect"
    assert result()[0] == "erm"
