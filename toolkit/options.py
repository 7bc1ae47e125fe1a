"""Command-line flags generated from the recipe: a kebab-case option per setting, with its docstring as help."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from toolkit.recipe import Recipe
from toolkit.resolve import Flags

FLAG_NAMES = {"model.name": "model", "data.path": "data", "export.gpus": "gpu"}
"""Flags that are not named like their setting."""
NO_FLAG = ("model.args", "export.targets")
"""Settings without a generated flag."""

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

COMMON: Mapping[str, Any] = {
    "run": Run,
    "recipe": RecipeFile,
    "assignments": Assignments,
    "seed": Seed,
    "as_json": AsJson,
    "dry_run": DryRun,
    "force": Force,
    "verbose": Verbose,
    "quiet": Quiet,
}
"""Options that every stage command has."""
SWITCHES = ("as_json", "dry_run", "force", "verbose", "quiet")
"""Boolean options."""


OWN_SECTIONS = {
    "train": ("model", "data", "train"),
    "prune": ("model", "data", "prune"),
    "run": ("model", "data"),
    "report": (),
}
"""Recipe sections whose settings are flags of a command, unless it is the section of its own name."""
TARGETS = {
    "onnx": ("onnx", "Write ONNX (the default)."),
    "trt": ("tensorrt", "Build a TensorRT engine, on the machine whose GPU will run it."),
    "rtx": ("rtx", "Build a TensorRT for RTX engine, for RTX GPUs, on any machine."),
    "openvino": ("openvino", "Write OpenVINO IR, for CPUs."),
    "torch": ("torch", "Write a torch.export program, compiled if there is a C++ compiler."),
}
"""Flags of `export`: the target that each selects, and its help."""
FORMER_FLAGS = {"target": "gpu"}
"""Renamed flags of `export`."""


def sections_of(command: str) -> tuple[str, ...]:
    """Recipe sections whose settings are flags of a command."""
    return OWN_SECTIONS.get(command, (command,))


def extra_options(command: str) -> dict[str, Any]:
    """Options of a command that are neither recipe settings nor common to all commands."""
    options: dict[str, Any] = {}
    if command == "export":
        for flag, (_, text) in TARGETS.items():
            options[flag] = Annotated[bool, typer.Option(f"--{flag}", help=text, rich_help_panel="Stage")]
        for flag, current in FORMER_FLAGS.items():
            options[flag] = Annotated[str | None, typer.Option(f"--{flag}", callback=_refuse(current), hidden=True)]
    if command == "run":
        options["until"] = Until
    if command in ("run", "bench", "report"):
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
    flags = {_parameter(name): _option(name, field) for name, field in fields(sections)}
    annotations = flags | dict(extra) | dict(COMMON)

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


def flags_in(values: Mapping[str, Any], sections: Sequence[str]) -> Flags:
    """Settings given on the command line, by dotted name."""
    flags = {name: values.get(_parameter(name)) for name, _ in fields(sections)}
    return {name: value for name, value in flags.items() if value is not None}


def flag_of(name: str) -> str:
    """The flag of a setting: "prune.ratio" is --ratio."""
    return f"--{_parameter(name).replace('_', '-')}"


def fields(sections: Sequence[str]) -> list[tuple[str, FieldInfo]]:
    """Settings of these sections that have a flag, by dotted name."""
    settings = [
        (f"{section}.{name}", field)
        for section in sections
        for name, field in type(Recipe.model_fields[section].default).model_fields.items()
    ]
    return [(name, field) for name, field in settings if name not in NO_FLAG]


def _parameter(name: str) -> str:
    """Name of the Typer parameter of a setting."""
    return FLAG_NAMES.get(name, name.rpartition(".")[2])


def _option(name: str, field: FieldInfo) -> Any:
    kind = _plain_type(field)
    text = field.description or ""
    if choices := get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
        text = f"{text} One of: {', '.join(choices)}."
    default = field.default
    default_text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    panel = "Model and data" if name.startswith(("model.", "data.")) else "Stage"
    flag = flag_of(name)
    numeric, metavar = NUMBERS.get(kind, (None, None))
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        parser=partial(number, numeric) if numeric else None,
        metavar=metavar,
        help=_escaped(text),
        show_default=default_text if default is not None else False,
        rich_help_panel=panel,
    )
    return Annotated[Union[kind, None], option]  # noqa: UP007


def _escaped(text: str) -> str:
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
