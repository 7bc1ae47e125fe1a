"""The stage `finetune`: its settings choose the extensions of training."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image as Pillow

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


@pytest.mark.usefixtures("here")
def test_matching_is_one_flag_with_defaults_of_its_own(command: Callable[..., Any]) -> None:
    ended = command("finetune", "--objective", "matching")
    assert ended.code == 0, ended.err
    history = records.load(TrainingHistory, FINETUNED / "history.json")
    assert history.objective == "matching, logits with class and patch tokens and weight averaging"
    assert history.evaluations[-1].agreement.keys() == history.evaluations[-1].accuracy.keys() != set()
    written = yaml.safe_load(Path("runs/default/recipe.yaml").read_text())["finetune"]
    assert (written["learning_rate"], written["final_rate"], written["average_from"]) == (5e-5, 0.1, 0.25)
    no_effect = ("--distill-weight", "0.9", "--distill-temperature", "7", "--label-smoothing", "0.1")
    assert command("finetune", *no_effect).made == []
    assert command("finetune", "--learning-rate", "1e-4").made == ["finetuned"]
    assert command("finetune", "--set", "finetune.matching.temperature=2").made == ["finetuned"]
    refused = command("finetune", "--no-distill")
    assert (refused.code, refused.made) == (2, [])
    assert "the objective matching learns from the dense model, but finetune.distill is false" in refused.err


@pytest.mark.usefixtures("here")
def test_unlabelled_pictures_are_an_input(command: Callable[..., Any], here: Path) -> None:
    shutil.copytree(here / "path/to/photos/ink/class0", here / "pictures/deep/down")
    for file in here.glob("pictures/deep/down/*"):
        Pillow.open(file).rotate(90).save(file)
    words = ("finetune", "--objective", "matching", "--set", "finetune.matching.images=pictures")
    ended = command(*words)
    assert ended.code == 0, ended.err
    assert re.search(r"pictures: \d+ without labels", ended.err)
    assert command(*words).made == []
    next(here.glob("pictures/deep/down/*")).unlink()
    assert command(*words).made == ["finetuned"]
    missing = command("finetune", "--set", "finetune.matching.images=nowhere")
    assert (missing.code, missing.made) == (2, [])
    assert "nowhere does not exist" in missing.err


@pytest.mark.usefixtures("here")
def test_the_dense_model_cannot_match_itself(command: Callable[..., Any]) -> None:
    refused = command("train", "--objective", "matching")
    assert (refused.code, refused.made) == (2, [])
    assert "train.objective 'matching' learns from the dense model, which is to be trained" in refused.err
