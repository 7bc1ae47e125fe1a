"""Which settings hold: built-in ones, under those of toolkit.yaml, under flags.

Flags given to earlier commands on the same run still hold (`flags.yaml` in the run folder), so that
`toolkit prune --ratio 0.75` and then `toolkit bench` speak of the same model. Without a toolkit.yaml, and as long as no
flag names another model or other data, the built-in example is what is run.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import ValidationError

from toolkit import yaml_file
from toolkit.errors import RecipeError, suggestion
from toolkit.recipe import FORMER_NAMES, Recipe
from toolkit.wrong_settings import Origins, explained, shown

Values: TypeAlias = dict[str, Any]
"""A recipe as read: sections of settings, nothing checked yet."""

Flags: TypeAlias = dict[str, Any]
"""Dotted setting ("prune.ratio") to value."""

DEFAULT_FILE = "toolkit.yaml"
EXAMPLE_DATA = "digits"
FLAGS_FILE, RECIPE_COPY = "flags.yaml", "recipe.yaml"
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
    left_behind: Flags
    """What held until this command named another model or other data."""

    def remember(self) -> str:
        """Content of `flags.yaml`."""
        content = {"recipe": str(self.file.resolve()) if self.file else None, "flags": self.flags}
        return yaml.safe_dump(content, sort_keys=False)

    def told(self) -> list[str]:
        """What a person should know of settings that this command did not name."""
        lines = []
        if self.kept:
            lines.append(f"still in force from earlier commands on this run: {_listed(self.kept)}")
        if self.left_behind:
            anew = [f"{name}={self.flags[name]}" for name in STARTS_ANEW if name in self.flags]
            lines.append(f"no longer in force with {', '.join(anew)}: {_listed(self.left_behind)}")
        return lines


def resolve(file: Path | None, run: Path | None, flags: Flags, given: Mapping[str, str] | None = None) -> Resolved:
    """The settings of a command: `file` is --recipe, `run` is --run, `flags` are all others, `given` is how each of
    these was written ("--ratio").

    Raises RecipeError naming the line or flag, and the closest setting where one is unknown.
    """
    if file is None and run is not None:
        file = _recipe_of(run)
    if file is None and Path(DEFAULT_FILE).is_file():
        file = Path(DEFAULT_FILE)
    if file is None and run is None:
        file = _recipe_of(Path(Recipe().run))
    base = _read(file) if file else {}
    if file is not None and file.name == RECIPE_COPY:
        base = _with_current_names(base)
    named = base.get("run") or Recipe().run
    folder = run or Path(str(named))
    earlier = _flags_of(folder)
    before = _laid_over(base, earlier)
    anew = _started_anew(before, flags)
    kept = {name: value for name, value in earlier.items() if not _taken_back(name, flags, anew)}
    merged = {**kept, **flags}
    if file is None and "model.name" not in merged and merged.get("data.path", EXAMPLE_DATA) == EXAMPLE_DATA:
        base = yaml.safe_load(files("toolkit").joinpath("default.yaml").read_text(encoding="utf-8"))
    values = _laid_over(base, merged)
    values["run"] = str(run) if run else named
    how = dict.fromkeys(kept, f"{folder / FLAGS_FILE}, of an earlier command")
    how |= {name: (given or {}).get(name, "on the command line") for name in flags}
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise explained(error, Origins(file, how)) from None
    return Resolved(recipe, file, merged, kept, _left_behind(before, values, anew))


def parse_assignment(text: str) -> tuple[str, Any]:
    """ "prune.ratio=0.75" -> ("prune.ratio", 0.75); the value is read as YAML."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise RecipeError(f"--set {text!r} is not section.setting=value", "for example --set prune.ratio=0.75")
    if name == "run":
        raise RecipeError("the run folder is not a --set", "--run DIR")
    return name, yaml_file.parse(value, f"the value of --set {shown(text)}")


def as_yaml(recipe: Recipe) -> str:
    """The whole recipe, every setting spelled out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _started_anew(before: Values, flags: Flags) -> dict[str, str]:
    """Sections that `flags` name another model or other data for, and the setting that does."""
    return {
        section: name
        for name, section in STARTS_ANEW.items()
        if name in flags and _place(before, name).get(_last(name)) != flags[name]
    }


def _taken_back(name: str, flags: Flags, anew: Mapping[str, str]) -> bool:
    """Whether `flags` overrule the flag `name` of an earlier command."""
    return name in flags or RIVALS.get(name) in flags or name.partition(".")[0] in anew


def _left_behind(before: Values, after: Values, anew: Mapping[str, str]) -> Flags:
    """Settings that held before their section was started anew."""
    return {
        f"{section}.{name}": value
        for section, cause in anew.items()
        for name, value in before[section].items()
        if name != _last(cause) and name not in after[section]
    }


def _listed(flags: Flags) -> str:
    return ", ".join(f"{name}={value}" for name, value in flags.items())


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
        values = yaml_file.read(file)
    except FileNotFoundError:
        raise RecipeError(f"recipe {file} does not exist", "`toolkit init` writes one") from None
    except OSError as error:
        raise RecipeError(f"{file} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict | None):
        raise RecipeError(f"{file} must hold sections of settings", "`toolkit init` writes one")
    if odd := [name for name in values or {} if not isinstance(name, str)]:
        raise RecipeError(f"{file}: {odd[0]!r} is no section of settings", suggestion(str(odd[0]), Recipe.model_fields))
    return values or {}


def _remembered(run: Path) -> Values:
    file = run / FLAGS_FILE
    return _read(file) if file.is_file() else {}


def _flags_of(run: Path) -> Flags:
    flags = _remembered(run).get("flags") or {}
    if not isinstance(flags, dict) or not all(isinstance(name, str) for name in flags):
        raise RecipeError(f"{run / FLAGS_FILE} holds no flags by name", "remove it: flags of earlier commands are lost")
    return {FORMER_NAMES.get(str(name), str(name)): value for name, value in flags.items()}


def _with_current_names(values: Values) -> Values:
    """A run's own copy of its recipe, which an earlier version may have written, under today's names."""
    values = copy.deepcopy(values)
    for former, current in FORMER_NAMES.items():
        section = _place(values, former)
        if _last(former) in section:
            _place(values, current)[_last(current)] = section.pop(_last(former))
    return values


def _recipe_of(run: Path) -> Path | None:
    """The recipe a run was started with; its own copy if that is gone."""
    file = _remembered(run).get("recipe")
    if not isinstance(file, str) or Path(file).is_file():
        return Path(file) if isinstance(file, str) else None
    return run / RECIPE_COPY
