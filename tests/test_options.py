"""Every setting of the recipe is a flag with a help text, and reaches the recipe."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from pydantic.fields import FieldInfo
from rich.markup import escape
from rich.text import Text
from typer.testing import CliRunner

from toolkit import options, resolve
from toolkit.cli import STAGE_HELP, app
from toolkit.recipe import Recipe
from toolkit.section import PluginSection, Section
from toolkit.setting_flags import SettingFlag, flags_in, sections_of, setting_flags

SECTIONS = [name for name, field in Recipe.model_fields.items() if isinstance(field.default, Section)]
FLAGS = {flag.settings[0]: flag for section in SECTIONS for flag in setting_flags([section])}
WITHOUT_DEFAULT = {
    "model.weights_key": "state_dict_ema",
    "model.image_size": 64,
    "model.mean": (0.25, 0.5, 0.75),
    "model.std": (0.25, 0.5, 0.75),
    "model.interpolation": "lanczos",
    "model.crop": 0.9,
    "model.crop_mode": "border",
    "data.hold_out": "sketch",
    "data.workers": 3,
    "prune.ratio": 0.25,
    "prune.budget": "params=0.5",
    "bench.threads": 2,
    "prune.axes": ("block", "v"),
    "bench.batch_size": (4, 2),
    "bench.runtime": "torch",
    "prune.runtime": "torch",
    "export.onnx.opset": 18,
    "export.image_size": (128, 160, 256),
    "export.batch_size": (2, 4, 6),
    "export.rewrites": ("norms", "class-token"),
    "export.calibration_domains": ("ink", "photo"),
    "export.rtx.gpus": "sm_86,sm_89",
    "export.rtx.workspace_mib": 512,
    "export.rtx.timing_cache": "timing.cache",
}


def another_value(flag: SettingFlag) -> Any:
    """A value that the setting accepts and that is not its default."""
    if flag.settings[0] in WITHOUT_DEFAULT:
        return WITHOUT_DEFAULT[flag.settings[0]]
    value = flag.field.default
    if get_origin(flag.field.annotation) is Literal:
        return get_args(flag.field.annotation)[-1]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return value + 1 if isinstance(value, int) else value / 2 + 0.01


def words_of(flag: SettingFlag, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{flag.name}" if value else f"--no-{flag.name}"]
    return [f"--{flag.name}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]


def value_in(recipe: Recipe, name: str) -> Any:
    """Value of a setting, of a section or of a plug-in."""
    section, *plugin, setting = name.split(".")
    holder = getattr(recipe, section)
    if plugin:
        assert isinstance(holder, PluginSection)
        holder = holder.own(plugin[0])
    return getattr(holder, setting)


@pytest.mark.parametrize("flag", FLAGS.values(), ids=FLAGS)
def test_flag_reaches_the_recipe(flag: SettingFlag, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = flag.settings[0].partition(".")[0]
    seen: dict[str, Any] = {}
    one = typer.Typer()
    one.command()(options.with_options(seen.update, (section,), {}))
    value = another_value(flag)
    ended = CliRunner().invoke(one, words_of(flag, value), catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    flags, origins = flags_in(seen, (section,))
    assert tuple(flags) == flag.settings
    assert origins == dict.fromkeys(flag.settings, f"--{flag.name}")
    recipe = resolve.resolve(None, None, flags).recipe
    assert [value_in(recipe, name) for name in flag.settings] == [value] * len(flag.settings)


def test_flags_of_targets_come_from_the_targets() -> None:
    assert FLAGS["export.rtx.workspace_mib"].settings == ("export.rtx.workspace_mib", "export.tensorrt.workspace_mib")
    assert FLAGS["export.rtx.gpus"].name == "gpu"
    assert flags_in({"trt": True, "onnx": True}, ["export"]) == (
        {"export.targets": ["onnx", "tensorrt"]},
        {"export.targets": "--onnx --trt"},
    )


def test_flags_that_are_not_given_are_not_there() -> None:
    seen: dict[str, Any] = {}
    one = typer.Typer()
    one.command()(options.with_options(seen.update, ("prune",), {}))
    CliRunner().invoke(one, [], catch_exceptions=False)
    assert flags_in(seen, ("prune",)) == ({}, {})
    assert {name: seen[name] for name in options.SWITCHES if name in seen} == {
        "as_json": False, "dry_run": False, "force": False, "forget": False, "verbose": False, "quiet": False,
    }  # fmt: skip


@pytest.mark.parametrize("command", [*STAGE_HELP, "run"])
def test_every_option_has_a_help_text_and_one_name(command: str) -> None:
    group: Any = typer.main.get_command(app)
    _, resolved, _ = group.resolve_command(typer.Context(group), [command])
    assert resolved.help
    shown = [option for option in resolved.params if not option.hidden]  # former names are hidden
    assert [option.name for option in shown if not getattr(option, "help", "")] == []
    names = [name for option in resolved.params for name in (*option.opts, *option.secondary_opts)]
    assert len(names) == len(set(names))
    assert {f"--{flag.name}" for flag in setting_flags(sections_of(command))} <= set(names)


def test_a_help_text_is_shown_to_the_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    text = r"One of [bold], [a, b], [1, 2], \[x] or [/b]; pip install 'vit-toolkit[tensorrt]'."
    field = FieldInfo(annotation=str, description=text, default="[red]")
    flag = SettingFlag("value", ("data.value",), field, "Stage")
    monkeypatch.setattr(options, "setting_flags", lambda sections: [flag])
    one = typer.Typer(rich_markup_mode="rich")
    one.command()(options.with_options(dict, ("data",), {}))
    shown = CliRunner().invoke(one, ["--help"], env={"COLUMNS": "200"}, catch_exceptions=False).output
    assert text in shown
    assert "[red]" in shown


def test_no_help_text_holds_an_emoji_code() -> None:
    """Which nothing can quote."""
    for flag in FLAGS.values():
        text = flag.field.description or ""
        assert Text.from_markup(escape(text)).plain == text
