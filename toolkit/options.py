"""Options of Typer commands: common options, and one for each flag of `setting_flags`."""

from __future__ import annotations

import inspect
import logging
import re
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from toolkit.setting_flags import SettingFlag, default_text, help_text, parameter_of, setting_flags, switches_of

LOG = logging.getLogger(__name__)
NUMBERS: Mapping[object, tuple[type[int | float], str]] = {int: (int, "INTEGER"), float: (float, "FLOAT")}
"""Numeric types: parser and metavar."""


def number(kind: type[int | float], text: str) -> int | float | str:
    """A number, or the text itself, which the recipe's validation then refuses."""
    try:
        return kind(text)
    except ValueError:
        return text


Run = Annotated[
    Path | None,
    typer.Option("--run", help="Run folder.", show_default="runs/default", rich_help_panel="Run"),
]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="Recipe to read.", show_default="toolkit.yaml", rich_help_panel="Run")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.SETTING=VALUE", help="Set any recipe setting.", rich_help_panel="Run"),
]
Seed = Annotated[
    int | None,
    typer.Option(
        parser=partial(number, int),
        metavar="INTEGER",
        help="Random seed.",
        show_default="0",
        rich_help_panel="Run",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the stage's record on stdout.", rich_help_panel="Run")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be made, and why.", rich_help_panel="Run")]
Force = Annotated[
    bool, typer.Option("--force", help="Remake the result even if it is up to date.", rich_help_panel="Run")
]
Forget = Annotated[
    bool,
    typer.Option("--forget", help="Forget the flags of earlier commands on this run.", rich_help_panel="Run"),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show more messages.", rich_help_panel="Run")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.", rich_help_panel="Run")]

Until = Annotated[
    str | None, typer.Option("--until", metavar="STAGE", help="Last stage to run.", rich_help_panel="Run")
]
AllowInvalid = Annotated[
    bool,
    typer.Option(
        "--allow-invalid",
        help="Report an INVALID measurement as such, without a failing exit code.",
        rich_help_panel="Run",
    ),
]
Compare = Annotated[
    list[str] | None,
    typer.Option(
        "--compare",
        metavar="KEY=VALUE,VALUE",
        help="Prune with each value of a setting of prune, and print and save one table of sizes, accuracies and "
        "latencies (compared/): method=grouped,oneshot. More than one: every combination; lists with +: "
        "axes=qk+mlp,mlp.",
        rich_help_panel="Compare",
    ),
]
NoLatency = Annotated[
    bool, typer.Option("--no-latency", help="Compare without measuring latencies.", rich_help_panel="Compare")
]

COMMON: Mapping[str, Any] = {
    "run": Run,
    "recipe": RecipeFile,
    "assignments": Assignments,
    "seed": Seed,
    "as_json": AsJson,
    "dry_run": DryRun,
    "force": Force,
    "forget": Forget,
    "verbose": Verbose,
    "quiet": Quiet,
}
"""Options that every stage command has."""
SWITCHES = ("as_json", "dry_run", "force", "forget", "verbose", "quiet")
"""Boolean options."""


FORMER_FLAGS = {"target": "gpu"}
"""Renamed flags of `export`."""


def extra_options(command: str) -> dict[str, Any]:
    """Options of a command that are neither recipe settings nor common to all commands."""
    options: dict[str, Any] = {}
    if command == "export":
        for flag, current in FORMER_FLAGS.items():
            options[flag] = Annotated[str | None, typer.Option(f"--{flag}", callback=_refuse(current), hidden=True)]
    if command == "run":
        options["until"] = Until
    if command == "prune":
        options |= {"compare": Compare, "no_latency": NoLatency}
    if command in ("run", "bench", "report", "prune"):
        options["allow_invalid"] = AllowInvalid
    return options


def _refuse(current: str) -> Callable[[str | None], None]:
    """Callback that refuses a renamed flag with its current name."""

    def refuse(value: str | None) -> None:
        if value is not None:
            raise typer.BadParameter(f"it is now called --{current}")

    return refuse


def with_options(
    callback: Callable[[dict[str, Any]], None], sections: Sequence[str], extra: Mapping[str, Any]
) -> Callable[..., None]:
    """Build a Typer command: `callback` receives the values of the sections' flags, of `extra` and of COMMON."""
    switches = {
        parameter_of(flag): Annotated[
            bool, typer.Option(f"--{flag}", help=escaped(plugin.help), rich_help_panel="Stage")
        ]
        for plugins_by_flag in switches_of(sections, LOG.warning).values()
        for flag, (_, plugin) in plugins_by_flag.items()
    }
    flags = {flag.parameter: _option(flag) for flag in setting_flags(sections)}
    annotations = flags | switches | dict(extra) | dict(COMMON)

    def typer_command(**values: Any) -> None:
        callback(values)

    typer_command.__doc__ = callback.__doc__
    typer_command.__annotations__ = annotations
    typer_command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if name in SWITCHES or get_args(annotation)[0] is bool else None,
                annotation=annotation,
            )
            for name, annotation in annotations.items()
        ]
    )
    return typer_command


def _option(flag: SettingFlag) -> Any:
    kind = _plain_type(flag.field)
    numeric, metavar = NUMBERS.get(kind, (None, None))
    option = typer.Option(
        f"--{flag.name}/--no-{flag.name}" if kind is bool else f"--{flag.name}",
        parser=partial(number, numeric) if numeric else None,
        metavar=metavar,
        help=escaped(help_text(flag.field)),
        show_default=default_text(flag.field) if flag.field.default is not None else False,
        rich_help_panel=flag.panel,
    )
    return Annotated[Union[kind, None], option]  # noqa: UP007


def escaped(text: str) -> str:
    """Escape rich markup, like `rich.markup.escape`, which is slow to import."""
    return re.sub(r"(\\*)(\[[a-z#/@])", r"\1\1\\\2", text)


def _plain_type(field: FieldInfo) -> type[bool | float | str]:
    """The type that Typer parses; the recipe checks ranges and choices."""
    annotation = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    kinds: dict[object, type[bool | float | str]] = {int: int, float: float, bool: bool}
    return kinds.get(annotation, str)
