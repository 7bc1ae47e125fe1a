"""Commands that need no run: --version, --help, init, doctor."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit import __version__
from toolkit.cli import STAGE_HELP
from toolkit.recipe import Recipe

Command = Callable[..., Any]
Snapshot = Callable[..., dict[str, str]]


def test_version(command: Command) -> None:
    assert command("--version").out == f"toolkit {__version__}\n"


def test_doctor_lists_installed_packages(command: Command) -> None:
    ended = command("doctor")
    assert (ended.code, ended.out) == (0, "")
    for name in ("CPU", "torch", "timm", "onnxruntime", "target tensorrt"):
        assert name in ended.err


def test_init_writes_the_defaults_once(tmp_path: Path, command: Command) -> None:
    file = tmp_path / "toolkit.yaml"
    assert command("init", file).code == 0
    assert Recipe.model_validate(yaml.safe_load(file.read_text())) == Recipe()
    file.write_text("seed: 4\n")
    ended = command("init", file)
    assert ended.code == 2
    assert "--force" in ended.err
    assert file.read_text() == "seed: 4\n"
    assert command("init", file, "--force").code == 0
    assert Recipe.model_validate(yaml.safe_load(file.read_text())) == Recipe()


def test_init_in_a_missing_folder(tmp_path: Path, command: Command) -> None:
    ended = command("init", tmp_path / "nowhere" / "toolkit.yaml")
    assert ended.code == 2
    assert "No such file or directory" in ended.err


HELP = (
    "import sys, toolkit.cli; sys.argv = ['toolkit', '--help']\ntry: toolkit.cli.main()\nfinally: print(*sys.modules)"
)


def test_help_lists_every_command_and_imports_little() -> None:
    ran = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    text, _, modules = ran.stdout.strip().rpartition("\n")
    loaded = set(modules.split())
    assert {"torch", "timm", "numpy", "scipy", "pydantic", "yaml"} & loaded == set()
    ours = {name for name in loaded if name.split(".")[0] == "toolkit"}
    assert ours == {"toolkit", "toolkit.cli", "toolkit.errors", "toolkit.characters"}
    for name in (*STAGE_HELP, "run", "inspect", "init", "doctor"):
        assert re.search(rf"^\W*{name}\b", text, re.MULTILINE), name


@pytest.mark.parametrize("name", ["", *STAGE_HELP, "run"])
def test_help_lists_only_implemented_commands(command: Command, name: str) -> None:
    text = command(*name.split(), "--help").out.lower()
    for word in ("jetson", "ssh", "gohsp", "p3b"):
        assert word not in text


def test_help_is_quick(untraced: dict[str, str]) -> None:
    """Help takes at most four times the load time of its library on any machine: best of interleaved runs."""

    def seconds(*program: str) -> float:
        """CPU time, which depends little on other programs."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", *program], check=True, stdout=subprocess.DEVNULL, env=untraced)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    programs = ("from toolkit.cli import main; main()", "--help"), ("import typer",)
    taken = [[seconds(*program) for program in programs] for _ in range(5)]
    shown, loaded = (min(each) for each in zip(*taken, strict=True))
    assert shown < 4 * loaded
