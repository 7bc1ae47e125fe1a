"""Resolve settings: defaults < recipe < flags.

Flags of earlier commands on the same run stay in effect (`flags.yaml` in the run folder), so that
`toolkit prune --ratio 0.75` and then `toolkit bench` refer to the same model. Without a toolkit.yaml, and unless a flag
names another model or other data, the built-in example is run.
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
from toolkit.recipe import Recipe
from toolkit.setting_errors import Origins, abbreviated, explained
from toolkit.setting_names import Values, current_names, with_current_names

Flags: TypeAlias = dict[str, Any]
"""Values by dotted setting name ("prune.ratio")."""

DEFAULT_FILE = "toolkit.yaml"
EXAMPLE_DATA = "digits"
FLAGS_FILE, RECIPE_COPY = "flags.yaml", "recipe.yaml"
MUTUALLY_EXCLUSIVE = {"prune.ratio": "prune.budget", "prune.budget": "prune.ratio"}
"""Setting one of these resets the other."""
RESETS_SECTION = {"model.name": "model", "data.path": "data"}
"""Naming another model or other data resets the rest of their section."""


@dataclass(frozen=True)
class Resolved:
    """The settings of a command, and the flags that the run folder stores."""

    recipe: Recipe
    file: Path | None
    flags: Flags
    reused: Flags
    """The part of `flags` that comes from earlier commands."""
    reset: Flags
    """Settings that this command reset by naming another model or other data."""

    def flags_yaml(self) -> str:
        """Content of `flags.yaml`."""
        content = {"recipe": str(self.file.resolve()) if self.file else None, "flags": self.flags}
        return yaml.safe_dump(content, sort_keys=False)

    def notices(self) -> list[str]:
        """Messages about settings that this command did not name."""
        lines = []
        if self.reused:
            lines.append(f"reusing flags from earlier commands ({FLAGS_FILE}): {_listed(self.reused)}")
        if self.reset:
            causes = [f"{name}={self.flags[name]}" for name in RESETS_SECTION if name in self.flags]
            lines.append(f"reset by {', '.join(causes)}: {_listed(self.reset)}")
        return lines


def resolve(
    file: Path | None,
    run: Path | None,
    flags: Flags,
    origins: Mapping[str, str] | None = None,
    *,
    forget: bool = False,
) -> Resolved:
    """The settings of a command from --recipe (`file`), --run (`run`) and its other flags.

    `origins` maps settings to their flags as written ("--ratio"), for messages. `forget` leaves out the flags of
    earlier commands. Raises RecipeError naming the line or flag, and the closest setting for an unknown one.
    """
    if file is None and run is not None:
        file = _recipe_of(run)
    if file is None and Path(DEFAULT_FILE).is_file():
        file = Path(DEFAULT_FILE)
    if file is None and run is None:
        file = _recipe_of(Path(Recipe().run))
    base = _read(file) if file else {}
    recipe_run = base.get("run") or Recipe().run
    folder = run or Path(str(recipe_run))
    if file is not None and file == folder / RECIPE_COPY:
        base = with_current_names(base)
    earlier = {} if forget else _flags_of(folder)
    before = _overlay(base, earlier)
    sections = _reset_sections(before, flags)
    reused = {name: value for name, value in earlier.items() if not _overridden(name, flags, sections)}
    merged = {**reused, **flags}
    if file is None and "model.name" not in merged and merged.get("data.path", EXAMPLE_DATA) == EXAMPLE_DATA:
        base = yaml.safe_load(files("toolkit").joinpath("default.yaml").read_text(encoding="utf-8"))
    values = _overlay(base, merged)
    values["run"] = str(run) if run else recipe_run
    sources = dict.fromkeys(reused, f"{folder / FLAGS_FILE}, from an earlier command")
    sources |= {name: (origins or {}).get(name, "on the command line") for name in flags}
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise explained(error, Origins(file, sources)) from None
    return Resolved(recipe, file, merged, reused, _reset_settings(before, values, sections))


def recipe_of(values: Values) -> Recipe:
    """A recipe with these settings, by section, and defaults for all others. Raises RecipeError for invalid ones."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise explained(error, Origins(None)) from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """ "prune.ratio=0.75" -> ("prune.ratio", 0.75); the value is read as YAML."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise RecipeError(
            f"--set {text!r} does not have the form section.setting=value", "for example --set prune.ratio=0.75"
        )
    if name == "run":
        raise RecipeError("the run folder cannot be set by --set", "--run DIR")
    return name, yaml_file.parse(value, f"the value of --set {abbreviated(text)}")


def as_yaml(recipe: Recipe) -> str:
    """The recipe with every setting, as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _reset_sections(before: Values, flags: Flags) -> dict[str, str]:
    """Sections that `flags` reset, with the setting that does."""
    return {
        section: name
        for name, section in RESETS_SECTION.items()
        if name in flags and _parent_of(before, name).get(_last(name)) != flags[name]
    }


def _overridden(name: str, flags: Flags, sections: Mapping[str, str]) -> bool:
    """Whether `flags` override or reset the flag `name` of an earlier command."""
    return name in flags or MUTUALLY_EXCLUSIVE.get(name) in flags or name.partition(".")[0] in sections


def _reset_settings(before: Values, after: Values, sections: Mapping[str, str]) -> Flags:
    """Settings that were in effect before their section was reset."""
    return {
        f"{section}.{name}": value
        for section, cause in sections.items()
        for name, value in before[section].items()
        if name != _last(cause) and name not in after[section]
    }


def _listed(flags: Flags) -> str:
    return ", ".join(f"{name}={value}" for name, value in flags.items())


def _overlay(base: Values, flags: Flags) -> Values:
    values = {name: copy.deepcopy(value) for name, value in base.items() if value is not None}
    for name, section in RESETS_SECTION.items():
        if name in flags and _parent_of(values, name).get(_last(name)) != flags[name]:
            values[section] = {}
    for name in MUTUALLY_EXCLUSIVE.keys() & flags.keys():
        _parent_of(values, MUTUALLY_EXCLUSIVE[name]).pop(_last(MUTUALLY_EXCLUSIVE[name]), None)
    for name, value in flags.items():
        _parent_of(values, name)[_last(name)] = value
    return values


def _parent_of(values: Values, name: str) -> Values:
    """The mapping that holds the setting of a dotted name."""
    mapping = values
    for parent in name.split(".")[:-1]:
        mapping = mapping.setdefault(parent, {})
        if not isinstance(mapping, dict):
            raise RecipeError(f"{parent} = {mapping!r}: it should hold settings, such as {name}")
    return mapping


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
        raise RecipeError(
            f"{file}: {odd[0]!r} is not a section of settings", suggestion(str(odd[0]), Recipe.model_fields)
        )
    return values or {}


def _stored_flags(run: Path) -> Values:
    file = run / FLAGS_FILE
    return _read(file) if file.is_file() else {}


def _flags_of(run: Path) -> Flags:
    flags = _stored_flags(run).get("flags") or {}
    if not isinstance(flags, dict) or not all(isinstance(name, str) for name in flags):
        raise RecipeError(
            f"{run / FLAGS_FILE} does not hold flags by name", "delete it: the flags of earlier commands are lost"
        )
    return {current: value for name, value in flags.items() for current in current_names(name)}


def _recipe_of(run: Path) -> Path | None:
    """The recipe that a run was started with, or the run's own copy if that file no longer exists."""
    file = _stored_flags(run).get("recipe")
    if not isinstance(file, str) or Path(file).is_file():
        return Path(file) if isinstance(file, str) else None
    return run / RECIPE_COPY
