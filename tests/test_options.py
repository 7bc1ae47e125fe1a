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
from toolkit.recipe import Recipe, Section

SETTINGS = [
    f"{section}.{name}"
    for section, field in Recipe.model_fields.items()
    if isinstance(field.default, Section)
    for name in type(field.default).model_fields
    if f"{section}.{name}" not in options.NO_FLAG
]
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
    "export.opset": 18,
    "export.image_size": (128, 160, 256),
    "export.batch_size": (2, 4, 6),
    "export.rewrites": ("norms", "class-token"),
    "export.calibration_domains": ("ink", "photo"),
    "export.gpus": "sm_86,sm_89",
    "export.workspace_mib": 512,
    "export.timing_cache": "timing.cache",
}


def another_value(name: str) -> Any:
    """A value that the setting accepts and that is not its default."""
    if name in WITHOUT_DEFAULT:
        return WITHOUT_DEFAULT[name]
    section, _, field = name.partition(".")
    info = type(Recipe.model_fields[section].default).model_fields[field]
    value = info.default
    if get_origin(info.annotation) is Literal:
        return get_args(info.annotation)[-1]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    return value + 1 if isinstance(value, int) else value / 2 + 0.01


def flag_of(name: str, value: Any) -> list[str]:
    flag = options.FLAG_NAMES.get(name, name.partition(".")[2]).replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]


@pytest.mark.parametrize("name", SETTINGS)
def test_flag_reaches_the_recipe(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section, _, field = name.partition(".")
    seen: dict[str, Any] = {}
    one = typer.Typer()
    one.command()(options.with_options(seen.update, (section,), {}))
    value = another_value(name)
    ended = CliRunner().invoke(one, flag_of(name, value), catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    flags = options.flags_in(seen, (section,))
    assert list(flags) == [name]
    recipe = resolve.resolve(None, None, flags).recipe
    assert getattr(getattr(recipe, section), field) == value


def test_flags_that_are_not_given_are_not_there() -> None:
    seen: dict[str, Any] = {}
    one = typer.Typer()
    one.command()(options.with_options(seen.update, ("prune",), {}))
    CliRunner().invoke(one, [], catch_exceptions=False)
    assert options.flags_in(seen, ("prune",)) == {}
    assert {name: seen[name] for name in options.SWITCHES if name in seen} == {
        "as_json": False, "dry_run": False, "force": False, "verbose": False, "quiet": False,
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
    flags = {options.FLAG_NAMES.get(name, name.partition(".")[2]).replace("_", "-")
           for name in SETTINGS if name.partition(".")[0] in options.sections_of(command)}  # fmt: skip
    assert {f"--{name}" for name in flags} <= set(names)


def test_a_help_text_is_shown_to_the_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    text = r"One of [bold], [a, b], [1, 2], \[x] or [/b]; pip install 'vit-toolkit[tensorrt]'."
    field = FieldInfo(annotation=str, description=text, default="[red]")
    monkeypatch.setattr(options, "fields", lambda sections: [("data.value", field)])
    one = typer.Typer(rich_markup_mode="rich")
    one.command()(options.with_options(dict, ("data",), {}))
    shown = CliRunner().invoke(one, ["--help"], env={"COLUMNS": "200"}, catch_exceptions=False).output
    assert text in shown
    assert "[red]" in shown


def test_no_help_text_holds_an_emoji_code() -> None:
    """Which nothing can quote."""
    for name in SETTINGS:
        section, _, field = name.partition(".")
        text = type(Recipe.model_fields[section].default).model_fields[field].description or ""
        assert Text.from_markup(escape(text)).plain == text
