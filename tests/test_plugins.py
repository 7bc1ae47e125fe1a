"""Plug-ins are found by file name, and only the requested one is imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolkit import cli, plugins, setting_flags
from toolkit.errors import MissingDependency, PluginError, UnknownName
from toolkit.section import Section

FOLDERS = (
    "toolkit.prune.criteria",
    "toolkit.prune.scopes",
    "toolkit.prune.methods",
    "toolkit.prune.bases",
    "toolkit.prune.compensate",
    "toolkit.export",
    "toolkit.dg.objectives",
    "toolkit.bench.runtimes",
    "toolkit.bench.devices",
)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable folder of plug-ins, `plugin_shelf.widgets`."""
    folder = tmp_path / "plugin_shelf" / "widgets"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").write_text('KIND = "widget"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "plugin_shelf"]:
        del sys.modules[name]


def test_listing_names_imports_nothing(shelf: Path) -> None:
    (shelf / "magnitude_l1.py").write_text("raise RuntimeError('imported')\nPLUGIN = 1")
    (shelf / "global_.py").write_text("raise RuntimeError('imported')\nPLUGIN: object = 1")
    (shelf / "shared.py").write_text("NOT_A_PLUGIN = 1\nPLUGINS = 'neither'")
    assert plugins.names("plugin_shelf.widgets") == ["global", "magnitude-l1"]


def test_load_imports_only_this_plugin(shelf: Path) -> None:
    (shelf / "magnitude_l1.py").write_text("PLUGIN = 'the one'")
    (shelf / "broken.py").write_text("raise RuntimeError('imported')\nPLUGIN = 1")
    assert plugins.load("plugin_shelf.widgets", "magnitude-l1") == "the one"


@pytest.mark.parametrize("keyword", ["global", "import", "class", "lambda"])
def test_a_name_may_be_a_python_keyword(shelf: Path, keyword: str) -> None:
    (shelf / f"{keyword}_.py").write_text(f"PLUGIN = '{keyword}'")
    assert plugins.names("plugin_shelf.widgets") == [keyword]
    assert plugins.load("plugin_shelf.widgets", keyword) == keyword


def test_unknown_name_gets_a_suggestion(shelf: Path) -> None:
    (shelf / "magnitude_l1.py").write_text("PLUGIN = 1")
    with pytest.raises(UnknownName, match="unknown widget 'magnitud-l1'\ndid you mean magnitude-l1"):
        plugins.load("plugin_shelf.widgets", "magnitud-l1")


def test_a_path_is_not_a_name(shelf: Path) -> None:
    (shelf / "one.py").write_text("PLUGIN = 1")
    with pytest.raises(UnknownName, match="known: one"):
        plugins.load("plugin_shelf.widgets", "../plugin_shelf")


def test_a_missing_package_gets_an_install_hint(shelf: Path) -> None:
    (shelf / "fast.py").write_text("import no_such_package.inner\nPLUGIN = 1")
    with pytest.raises(MissingDependency, match="widget 'fast' needs the package 'no_such_package'") as caught:
        plugins.load("plugin_shelf.widgets", "fast")
    assert caught.value.hint == "pip install no-such-package"


def test_a_missing_package_that_is_imported_later(shelf: Path) -> None:
    (shelf / "fast.py").write_text("class Fast:\n    needs = ('sys', 'no_such_package')\nPLUGIN = Fast()")
    assert plugins.find("plugin_shelf.widgets", "fast").needs == ("sys", "no_such_package")
    with pytest.raises(MissingDependency, match="widget 'fast' needs the package 'no_such_package'"):
        plugins.load("plugin_shelf.widgets", "fast")


@pytest.mark.parametrize("text", ["import toolkit.no_such_module", "1 / 0", "def broken(:", "from sys import nothing"])
def test_a_plugin_that_cannot_be_imported_is_named_and_the_others_work(shelf: Path, text: str) -> None:
    (shelf / "fast.py").write_text(f"{text}\nPLUGIN = 1")
    (shelf / "slow.py").write_text("PLUGIN = 2")
    with pytest.raises(PluginError, match=r"widget 'fast' \(.*/widgets/fast\.py\) cannot be imported: \w+Error: "):
        plugins.load("plugin_shelf.widgets", "fast")
    assert plugins.names("plugin_shelf.widgets") == ["fast", "slow"]
    assert dict(plugins.importable("plugin_shelf.widgets")) == {"slow": 2}


def test_a_module_is_not_a_package_of_plugins() -> None:
    with pytest.raises(ValueError, match=r"toolkit\.errors is not a package"):
        plugins.names("toolkit.errors")


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("toolkit.prune.criteria", "criterion"),
        ("toolkit.prune.compensate", "compensation"),
        ("toolkit.prune.methods", "method"),
        ("toolkit.bench.devices", "device"),
    ],
)
def test_a_plugin_kind_is_named_after_its_folder(folder: str, kind: str) -> None:
    assert plugins.kind_of(folder) == kind


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_built_in_plugin_loads(folder: str) -> None:
    known = plugins.names(folder)
    assert known
    assert all(plugins.find(folder, name) is not None for name in known)


def test_settings_of_a_plugin_without_settings_are_not_applied(shelf: Path) -> None:
    (shelf / "plain.py").write_text("class Plain: pass\nPLUGIN = Plain()")
    plugin = plugins.find("plugin_shelf.widgets", "plain")
    assert plugins.load("plugin_shelf.widgets", "plain", Section()) is plugin
    assert plugins.load_with_json("plugin_shelf.widgets", "plain", "{}") is plugin


def test_common_flags_are_no_names_of_settings() -> None:
    own = {flag.parameter for flag in setting_flags.setting_flags(setting_flags.sections_of("run"))}
    switches = {"onnx", "openvino", "rtx", "torch", "trt"}
    parameters = {name: flags for name, flags in flags_of("run").items() if name not in own | switches}
    assert {"--forget", "--until", "--dry-run", "--allow-invalid"} <= set().union(*parameters.values())
    long = {flag.removeprefix("--") for flags in parameters.values() for flag in flags if flag.startswith("--")}
    assert long <= set(setting_flags.RESERVED)


def flags_of(command: str) -> dict[str, set[str]]:
    """Flags of a command by parameter."""
    parameters = cli._with_flags(command, []).params
    return {parameter.name: {*parameter.opts, *parameter.secondary_opts} for parameter in parameters}
