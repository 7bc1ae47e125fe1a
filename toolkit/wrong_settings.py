"""What is wrong with settings, in our words: which, where each came from, and what it should be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from toolkit import yaml_file
from toolkit.errors import RecipeError, suggestion
from toolkit.recipe import FORMER_NAMES, Recipe
from toolkit.setting_kinds import Conflict

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list",
    "dict": "names and values",
    "model": "a section of settings",
    "invalid_key": "a text",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
}
"""What a setting should be, by the whole type of pydantic's finding or its first word."""


@dataclass(frozen=True)
class Origins:
    """Where settings were written."""

    file: Path | None
    """The recipe."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Settings that were given otherwise, and how: "prune.ratio" to "--ratio"."""

    def of(self, path: Sequence[str]) -> str:
        """Where the setting of this path was written, or the nearest around it: a flag, or a line of the recipe."""
        parts = [".".join(path[:length]) for length in range(len(path), 0, -1)]
        if found := next((self.given[part] for part in parts if part in self.given), ""):
            return found
        if inside := next((how for name, how in self.given.items() if name.startswith(f"{parts[0]}.")), ""):
            return inside
        lines = yaml_file.lines(self.file) if self.file else {}
        line = next((lines[part] for part in parts if part in lines), None)
        return f"{self.file}, line {line}" if line else str(self.file or "settings")


def explained(error: ValidationError, origins: Origins) -> RecipeError:
    """Pydantic's findings as one error of ours."""
    faults = [_fault(fault, origins) for fault in error.errors()]
    return RecipeError("; ".join(message for message, _ in faults), next((hint for _, hint in faults if hint), ""))


def wanted(fault: ErrorDetails) -> tuple[str, str]:
    """What should have been there, and how to write it."""
    kind, given, details = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "value_error":
        return str(details["error"]), ""
    form = WANTED.get(kind) or WANTED.get(kind.partition("_")[0]) or "something else"
    hint = ""
    if kind == "string_type" and isinstance(given, int | float):
        hint = "write it in quotes: digits are a number, and yes, no, on and off are true and false"
    elif kind == "literal_error":
        hint = suggestion(str(given), re.findall(r"'([^']+)'", details["expected"]))
    return f"it should be {form.format(**details)}", hint


def shown(value: object, longest: int = 100) -> str:
    """What was given, as far as a line can hold it."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def _fault(fault: ErrorDetails, origins: Origins) -> tuple[str, str]:
    """One of pydantic's findings: message and hint."""
    path = [str(part) for part in fault["loc"] if part != "[key]"]
    name, where = ".".join(path), origins.of(path)
    if fault["type"] == "extra_forbidden" and name in FORMER_NAMES:
        return f"{where}: {name} is now called {FORMER_NAMES[name]}", ""
    if fault["type"] == "extra_forbidden":
        section = Recipe if len(path) == 1 else Recipe.model_fields[path[0]].default.__class__
        return f"{where}: unknown setting {name!r}", suggestion(path[-1], section.model_fields)
    conflict = fault.get("ctx", {}).get("error")
    if isinstance(conflict, Conflict):
        each = [
            f"{name}.{setting} = {shown(value)} ({origins.of([*path, setting])})"
            for setting, value in conflict.settings.items()
        ]
        return f"{' and '.join(each)} {conflict}", conflict.hint
    found, hint = wanted(fault)
    return f"{where}: {name} = {shown(fault['input'])}: {found}", hint
