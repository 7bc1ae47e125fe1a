"""Which settings hold: built-in ones, under those of toolkit.yaml, under flags.

Flags given to earlier commands on the same run still hold (`flags.yaml` in the run folder), so that
`toolkit prune --ratio 0.75` and then `toolkit bench` speak of the same model. Without a toolkit.yaml, and as long as no
flag names another model or other data, the built-in example is what is run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import ValidationError

from toolkit.errors import RecipeError, suggestion
from toolkit.recipe import Recipe, reason

Values: TypeAlias = dict[str, Any]
"""A recipe as read: sections of settings, nothing checked yet."""

Flags: TypeAlias = dict[str, Any]
"""Dotted setting ("prune.ratio") to value."""

DEFAULT_FILE = "toolkit.yaml"
EXAMPLE_DATA = "digits"
FLAGS_FILE = "flags.yaml"
RIVALS = {"prune.ratio": "prune.budget", "prune.budget": "prune.ratio"}
"""Settings that exclude each other: naming one takes the other back."""
STARTS_ANEW = {"model.name": "model", "data.path": "data"}
"""Another model or other data leave the rest of their section behind: it was meant for the one before."""


@dataclass(frozen=True)
class Resolved:
    """The settings of one command, and what the run folder must remember of its flags."""

    recipe: Recipe
    file: Path | None
    flags: Flags
    kept: Flags
    """Those of `flags` that earlier commands gave."""

    def remember(self) -> str:
        """Content of `flags.yaml`."""
        content = {"recipe": str(self.file.resolve()) if self.file else None, "flags": self.flags}
        return yaml.safe_dump(content, sort_keys=False)


def resolve(file: Path | None, run: Path | None, flags: Flags) -> Resolved:
    """The settings of a command: `file` is --recipe, `run` is --run, `flags` are all others.

    Raises RecipeError naming the line or flag, and the closest setting where one is unknown.
    """
    if file is None and run is not None:
        file = _recipe_of(run)
    if file is None and Path(DEFAULT_FILE).is_file():
        file = Path(DEFAULT_FILE)
    if file is None and run is None:
        file = _recipe_of(Path(Recipe().run))
    base = _read(file) if file else {}
    folder = run or Path(str(base.get("run") or Recipe().run))
    kept = {name: value for name, value in _flags_of(folder).items() if not _taken_back(name, flags)}
    merged = {**kept, **flags}
    if file is None and "model.name" not in merged and merged.get("data.path", EXAMPLE_DATA) == EXAMPLE_DATA:
        base = yaml.safe_load(files("toolkit").joinpath("default.yaml").read_text(encoding="utf-8"))
    values = _laid_over(base, merged)
    values["run"] = str(folder)
    return Resolved(_validated(values, file, merged), file, merged, kept)


def parse_assignment(text: str) -> tuple[str, Any]:
    """ "prune.ratio=0.75" -> ("prune.ratio", 0.75); the value is read as YAML."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise RecipeError(f"--set {text!r} is not section.setting=value", "for example --set prune.ratio=0.75")
    if name == "run":
        raise RecipeError("the run folder is not a --set", "--run DIR")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text!r}: the value is not YAML: {error}") from None


def as_yaml(recipe: Recipe) -> str:
    """The whole recipe, every setting spelled out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _taken_back(name: str, flags: Flags) -> bool:
    """Whether `flags` overrule the flag `name` of an earlier command."""
    anew = {section for flag, section in STARTS_ANEW.items() if flag in flags}
    return name in flags or RIVALS.get(name) in flags or name.partition(".")[0] in anew


def _laid_over(base: Values, flags: Flags) -> Values:
    values = {name: copy.deepcopy(value) for name, value in base.items() if value is not None}
    for name, section in STARTS_ANEW.items():
        if name in flags and _place(values, name).get(_last(name)) != flags[name]:
            values[section] = {}
    for name in RIVALS.keys() & flags.keys():
        _place(values, RIVALS[name]).pop(_last(RIVALS[name]), None)
    for name, value in flags.items():
        _place(values, name)[_last(name)] = value
    return values


def _place(values: Values, name: str) -> Values:
    """The mapping that holds the setting of a dotted name."""
    place = values
    for parent in name.split(".")[:-1]:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise RecipeError(f"{parent} = {place!r}: it should hold settings, such as {name}")
    return place


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _read(file: Path) -> Values:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"recipe {file} does not exist", "`toolkit init` writes one") from None
    except OSError as error:
        raise RecipeError(f"{file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file} is not YAML: {error}") from None
    if not isinstance(values, dict | None):
        raise RecipeError(f"{file} must hold sections of settings")
    return values or {}


def _validated(values: Values, file: Path | None, flags: Flags) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = _lines(file) if file else {}
        faults = [_fault(dict(fault), file, lines, flags) for fault in error.errors()]
    raise RecipeError("; ".join(message for message, _ in faults), next((hint for _, hint in faults if hint), ""))


def _fault(fault: dict[str, Any], file: Path | None, lines: Mapping[str, int], flags: Flags) -> tuple[str, str]:
    """One of pydantic's findings, in our words: message and hint."""
    path = [str(part) for part in fault["loc"]]
    name = ".".join(path)
    parts = [".".join(path[:length]) for length in range(len(path), 0, -1)]
    line = next((lines[part] for part in parts if part in lines), None)
    if any(part in flags for part in parts) or any(flag.startswith(f"{name}.") for flag in flags):
        where = "on the command line"
    else:
        where = f"{file}, line {line}" if line else str(file or "settings")
    if fault["type"] == "extra_forbidden":
        section = Recipe if len(path) == 1 else Recipe.model_fields[path[0]].default.__class__
        return f"{where}: unknown setting {name!r}", suggestion(path[-1], section.model_fields)
    return f"{where}: {name} = {fault['input']!r}: {reason(fault['msg'])}", ""


def _lines(file: Path) -> dict[str, int]:
    """Dotted name of every setting in a file to its line, counted from 1."""

    def walk(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int]]:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            yield f"{prefix}{key.value}", key.start_mark.line + 1
            yield from walk(value, f"{prefix}{key.value}.")

    return dict(walk(yaml.compose(file.read_text(encoding="utf-8")), ""))


def _remembered(run: Path) -> Values:
    file = run / FLAGS_FILE
    return _read(file) if file.is_file() else {}


def _flags_of(run: Path) -> Flags:
    flags = _remembered(run).get("flags")
    return flags if isinstance(flags, dict) else {}


def _recipe_of(run: Path) -> Path | None:
    """The recipe a run was started with; its own copy if that is gone."""
    file = _remembered(run).get("recipe")
    if file is None or Path(file).is_file():
        return Path(file) if file else None
    return run / "recipe.yaml"
