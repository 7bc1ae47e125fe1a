"""Preprocessing configs that cannot be used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
Unchanged = Callable[..., AbstractContextManager[None]]


CONFIGS = {
    "": "cannot read the preprocessing from w/preprocessor_config.json: it is empty",
    " \n": "cannot read the preprocessing from w/preprocessor_config.json: it is empty",
    "{}": "it has no 'size' to resize images to",
    "{": "error: cannot read the preprocessing: w/preprocessor_config.json is not JSON from line 1, column 2 on",
    '{"do_resize": false, "image_mean": [NaN, 0, 0], "image_std": 1}': "'image_mean' contains NaN or infinity",
    '{"do_resize": false, "image_mean": 0, "image_std": Infinity}': "'image_std' contains NaN or infinity",
    '{"do_resize": false, "rescale_factor": NaN}': "'rescale_factor' contains NaN or infinity",
}


@pytest.mark.parametrize("content", CONFIGS)
def test_invalid_preprocessor_configs(
    same_here: Path,
    command: Command,
    in_our_words: Callable[[Any], str],
    monkeypatch: pytest.MonkeyPatch,
    content: str,
) -> None:
    monkeypatch.chdir(same_here)
    Path("w").mkdir(exist_ok=True)
    shutil.copy("runs/default/dense/model.safetensors", "w/a.safetensors")
    Path("w/preprocessor_config.json").write_text(content)
    message = in_our_words(command("train", "--recipe", "toolkit.yaml", "--weights", "w/a.safetensors", "--dry-run"))
    assert CONFIGS[content] in message
    assert message.count("preprocessor_config.json") == 1, "the file is named once"


def test_resizing_despite_do_resize_false_is_reported(here: Path, command: Command) -> None:
    shutil.copy(here / "runs/default/dense/model.safetensors", here / "a.safetensors")
    (here / "preprocessor_config.json").write_text('{"do_resize": false, "image_mean": 0.5, "image_std": 0.5}')
    ended = command("train", "--weights", "a.safetensors", "--epochs", "0")
    assert ended.code == 0, ended.err
    assert "(from preprocessor_config.json, but images of other sizes are resized despite do_resize=false)" in ended.err
