"""A stage that is killed or interrupted leaves the previous result, and goes on from where it was."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolkit import records
from toolkit.records import ModelInfo

Command = Callable[..., Any]
Snapshot = Callable[..., dict[str, str]]
LIVING = ("log.jsonl", "environment.json", "recipe.yaml", "flags.yaml", ".work", ".*.new")

KILLED_AFTER_TWO_CHECKPOINTS = """
import os, signal, sys
from toolkit.dg import checkpoint
save, left = checkpoint.save, [2]
def dying(*arguments):
    save(*arguments)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save = dying
from toolkit.cli import main
main()
"""
KILLED_WHEN_MADE = """
import os, signal, sys
from toolkit.runfolder import RunFolder
RunFolder._replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from toolkit.cli import main
main()
"""


@pytest.fixture(autouse=True)
def _interrupts_arrive() -> Iterator[None]:
    """Enable KeyboardInterrupt, which shells disable for background processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def killed(untraced: dict[str, str]) -> Callable[..., None]:
    """`killed(code, ...)`: runs the command line in a process that ends itself as a kill would."""

    def run(code: str, *words: str) -> None:
        env = {**untraced, "PYTHONPATH": str(Path(__file__).parent.parent)}
        ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, env=env)
        assert ran.returncode == -signal.SIGKILL, ran.stderr

    return run


def weights() -> str:
    return records.load(ModelInfo, Path("runs/default/dense/model.json")).weights_sha256


def steps(text: str) -> list[int]:
    """The steps at which training said how it stands."""
    return [int(step) for step in re.findall(r"^train: (\d+)/\d+ loss", text, re.MULTILINE)]


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    here: Path, command: Command, killed: Callable[..., None]
) -> None:
    uninterrupted = weights()
    shutil.rmtree("runs/default")
    killed(KILLED_AFTER_TWO_CHECKPOINTS, "train")
    assert list(Path("runs/default/.work").glob("dense-*/checkpoint.pt"))
    assert not Path("runs/default/dense").exists()
    ended = command("train")
    assert ended.code == 0, ended.err
    total = int(re.findall(r"selected step \d+ of (\d+);", ended.err)[0])
    assert steps(ended.err) == [total * 3 // 4, total], "the first two of four periods are not trained again"
    assert weights() == uninterrupted
    assert not list(Path("runs/default/.work").glob("dense-*"))


def test_an_interrupted_training_ends_with_130_and_goes_on(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.dg import checkpoint

    uninterrupted, save = weights(), checkpoint.save

    def interrupted(*arguments: Any) -> None:
        save(*arguments)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        ended = command("train", "--force")
    assert ended.code == 130
    assert "run the same command to resume" in ended.err
    assert weights() == uninterrupted, "the previous result is there"
    ended = command("train", "--force")
    assert len(steps(ended.err)) == 3
    assert weights() == uninterrupted


def test_bad_input_in_between_does_not_lose_the_checkpoint(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.dg import checkpoint

    save = checkpoint.save

    def interrupted(*arguments: Any) -> None:
        save(*arguments)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        assert command("train", "--force").code == 130
    assert command("train", "--objective", "nothing").code == 2
    assert command("train", "--weights", "nowhere.pth").code == 2
    assert len(steps(command("train", "--force").err)) == 3


@pytest.mark.parametrize(
    "words",
    [
        ("prune", "--ratio", "0.25"),
        *(
            pytest.param(words, marks=pytest.mark.slow)
            for words in [
                ("finetune", "--distill-weight", "0.25"),
                ("export", "--opset", "19"),
                ("parity", "--batch-size", "5"),
                ("bench", "--samples", "31"),
            ]
        ),
    ],
    ids=lambda words: words[0],
)
def test_a_kill_in_a_stage_leaves_the_previous_result(
    here: Path, command: Command, killed: Callable[..., None], snapshot: Snapshot, words: tuple[str, ...]
) -> None:
    run = here / "runs" / "default"
    before = snapshot(run, *LIVING)
    killed(KILLED_WHEN_MADE, *words)
    assert snapshot(run, *LIVING) == before
    ended = command(*words)
    invalid = words[0] == "bench" and ended.code == 3  # on a machine that does other work
    assert ended.code == 0 or invalid, ended.err
    assert ": making " in ended.err
    assert not list(run.glob("**/.*.new"))
