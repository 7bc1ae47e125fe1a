"""Flags made from the recipe: every setting of a section is a kebab-case option whose help is its docstring."""

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
"""Flags that are not named after their setting."""
NO_FLAG = ("model.args", "export.targets")
"""Settings without a flag of this kind: they are set in a recipe, by --set, or by flags of their own."""

NUMBERS: Mapping[object, tuple[type[int | float], str]] = {int: (int, "INTEGER"), float: (float, "FLOAT")}
"""Kinds of numbers, and how a flag's help calls them."""


def number(kind: type[int | float], text: str) -> int | float | str:
    """A number, or the text itself, which is refused with the rest of the settings and in the same words."""
    try:
        return kind(text)
    except ValueError:
        return text


Run = Annotated[
    Path | None,
    typer.Option("--run", help="Folder of the results.", show_default="runs/default", rich_help_panel="Run"),
]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="Recipe to read.", show_default="toolkit.yaml", rich_help_panel="Run")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.SETTING=VALUE", help="Any setting of the recipe.", rich_help_panel="Run"),
]
Seed = Annotated[
    int | None,
    typer.Option(
        parser=partial(number, int),
        metavar="INTEGER",
        help="Seed of everything random.",
        show_default="0",
        rich_help_panel="Run",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the stage's record on stdout.", rich_help_panel="Run")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be made, and why.", rich_help_panel="Run")]
Force = Annotated[bool, typer.Option("--force", help="Make it again, even if up to date.", rich_help_panel="Run")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.", rich_help_panel="Run")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel="Run")]

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
"""Options of every stage's command."""
SWITCHES = ("as_json", "dry_run", "force", "verbose", "quiet")
"""Options that are on or off; all others but `extra` ones may be unset."""


def with_options(
    command: Callable[[dict[str, Any]], None], sections: Sequence[str], extra: Mapping[str, Any]
) -> Callable[..., None]:
    """A function that Typer can read: `command` gets the values of the sections' flags, of `extra` and of COMMON."""
    annotations = (
        {_parameter(name): _option(name, field) for name, field in fields(sections)} | dict(extra) | dict(COMMON)
    )

    def called(**values: Any) -> None:
        command(values)

    called.__doc__ = command.__doc__
    called.__annotations__ = annotations
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
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
    return called


def flags_in(values: Mapping[str, Any], sections: Sequence[str]) -> Flags:
    """The settings that were named on the command line, by their dotted names."""
    named = {name: values.get(_parameter(name)) for name, _ in fields(sections)}
    return {name: value for name, value in named.items() if value is not None}


def flag_of(name: str) -> str:
    """The flag of a setting, as it is typed: "prune.ratio" is --ratio."""
    return f"--{_parameter(name).replace('_', '-')}"


def fields(sections: Sequence[str]) -> list[tuple[str, FieldInfo]]:
    """The settings of these sections that have a flag, by their dotted names."""
    named = [
        (f"{section}.{name}", field)
        for section in sections
        for name, field in type(Recipe.model_fields[section].default).model_fields.items()
    ]
    return [(name, field) for name, field in named if name not in NO_FLAG]


def _parameter(name: str) -> str:
    """Name of the function's parameter; Typer turns it into the flag."""
    return FLAG_NAMES.get(name, name.rpartition(".")[2])


def _option(name: str, field: FieldInfo) -> Any:
    kind = _plain_type(field)
    text = field.description or ""
    if choices := get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
        text = f"{text} One of: {', '.join(choices)}."
    default = field.default
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    panel = "Model and data" if name.startswith(("model.", "data.")) else "Stage"
    flag = flag_of(name)
    numeric, metavar = NUMBERS.get(kind, (None, None))
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        parser=partial(number, numeric) if numeric else None,
        metavar=metavar,
        help=_quoted(text),
        show_default=shown if default is not None else False,
        rich_help_panel=panel,
    )
    return Annotated[Union[kind, None], option]  # noqa: UP007


def _quoted(text: str) -> str:
    """A help text for rich, which reads [name] as markup. As `rich.markup.escape`, which takes long to import."""
    return re.sub(r"(\\*)(\[[a-z#/@])", r"\1\1\\\2", text)


def _plain_type(field: FieldInfo) -> type[bool | float | str]:
    """What Typer parses; ranges and choices are checked with the rest of the recipe."""
    found = field.annotation
    if get_origin(found) in (Union, types.UnionType):
        found = next(part for part in get_args(found) if part is not type(None))
    if get_origin(found) is Annotated:
        found = get_args(found)[0]
    kinds: dict[object, type[bool | float | str]] = {int: int, float: float, bool: bool}
    return kinds.get(found, str)
