"""Plug-ins that cannot be imported, lack a package or share a name, and unknown settings of plug-ins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FILES = {
    "broken_file": "import math\nmath.no_such_function()\n",
    "second_taylor": "PLUGIN = 1\n",
    "needy_file": "class Needy:\n    needs = ('no_such_package',)\nPLUGIN = Needy()\n",
    "importing_file": "import no_such_package\nPLUGIN = 1\n",
}


@pytest.fixture
def package(install: Callable[..., Path]) -> Path:
    return install(
        FILES,
        [
            ("criterion", "broken", "broken_file"),
            ("scope", "local", "second_taylor"),
            ("method", "needy", "needy_file"),
            ("criterion", "importing", "importing_file"),
            ("target", "broken", "broken_file"),
        ],
    )


@pytest.mark.parametrize(
    ("words", "code", "texts"),
    [
        (["--criterion", "broken"], 2, ["criterion 'broken' (broken_file:PLUGIN (entry point of more_plugins))",
                                        "AttributeError: module 'math' has no attribute 'no_such_function'"]),
        (["--scope", "local"], 2, ["more than one scope 'local': ", "scopes/local.py and second_taylor:PLUGIN"]),
        (["--method", "needy"], 5, ["'needy' needs the package 'no_such_package'", "pip install no-such-package"]),
        (["--criterion", "importing"], 5, ["criterion 'importing' needs the package 'no_such_package'"]),
        (["--criterion", "taylr"], 2, ["unknown criterion 'taylr'", "did you mean taylor?"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)  # fmt: skip
def test_plugins_that_cannot_be_used_are_named(
    package: Path, here: Path, command: Callable[..., Any], words: list[str], code: int, texts: list[str]
) -> None:
    ended = command("prune", *words)
    assert (ended.code, ended.out) == (code, "")
    assert [text for text in texts if text not in ended.err] == []


def test_other_plugins_still_work(package: Path, here: Path, command: Callable[..., Any]) -> None:
    assert command("prune", "--criterion", "lamp", "--dry-run").code == 0
    assert command("export", "--dry-run").code == 0
    ended = command("doctor")
    assert ended.code == 0
    assert "criterion broken" in ended.err


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("export.rtx.workspac_mib=5", "unknown setting 'export.rtx.workspac_mib'",
         "did you mean workspace_mib?; settings of rtx: opset, gpus, builder_level, workspace_mib, version_compatible"),
        ("export.torch.opset=20", "unknown setting 'export.torch.opset'", "settings of torch: compile"),
        ("prune.taylor.power=2", "unknown setting 'prune.taylor.power'", "settings of taylor: none"),
        ("prune.tailor.power=2", "unknown setting 'prune.tailor'", "did you mean taylor"),
        ("export.workspace_mib=5", "now called export.rtx.workspace_mib or export.tensorrt.workspace_mib", ""),
        ("export.compile=false", "export.compile is now called export.torch.compile", ""),
        ("export.rtx=5", "export.rtx = 5: it should be a section of settings", ""),
        ("export.rtx.builder_level=9", "export.rtx.builder_level = 9: it should be at most 5", ""),
    ],
)  # fmt: skip
def test_wrong_settings_of_plugins_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any], setting: str, message: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("export", "--set", setting)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert hint in ended.err
    assert list(tmp_path.iterdir()) == []


def test_the_former_flag_of_a_gpu_names_the_current_one(command: Callable[..., Any]) -> None:
    ended = command("export", "--target", "sm_86")
    assert ended.code == 2
    assert "it is now called --gpu" in ended.err


def test_help_of_an_unknown_plugin_lists_the_known_ones(command: Callable[..., Any]) -> None:
    ended = command("prune", "--method", "groupd", "--help")
    assert ended.code == 2
    assert "did you mean grouped?" in ended.err
