"""Error messages for invalid settings: name, value, origin, and expected value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from toolkit import yaml_file
from toolkit.errors import RecipeError, suggestion
from toolkit.setting_names import current_names, known_names
from toolkit.setting_types import Conflict

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

EXPECTED = {
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
"""Expected value of a setting, by pydantic's error type or its first word."""


@dataclass(frozen=True)
class Origins:
    """Where settings were set."""

    file: Path | None
    """The recipe file."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Settings from outside the recipe, and how they were set: "prune.ratio" -> "--ratio"."""

    def of(self, path: Sequence[str]) -> str:
        """Where the setting of this path, or its closest parent, was set: a flag, or a line of the recipe."""
        parts = [".".join(path[:length]) for length in range(len(path), 0, -1)]
        if flag := next((self.overrides[part] for part in parts if part in self.overrides), ""):
            return flag
        if child := next((flag for name, flag in self.overrides.items() if name.startswith(f"{parts[0]}.")), ""):
            return child
        lines = yaml_file.lines(self.file) if self.file else {}
        line = next((lines[part] for part in parts if part in lines), None)
        return f"{self.file}, line {line}" if line else str(self.file or "settings")


def explained(error: ValidationError, origins: Origins) -> RecipeError:
    """Convert pydantic's error to a RecipeError."""
    by_place = {_place(details, origins): details for details in reversed(error.errors())}
    messages = [_message(details, origins) for details in reversed(by_place.values())]
    return RecipeError("; ".join(message for message, _ in messages), next((hint for _, hint in messages if hint), ""))


def expected(details: ErrorDetails) -> tuple[str, str]:
    """Expected value of an invalid setting, and a hint on how to write it."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"]), ""
    template = EXPECTED.get(kind) or EXPECTED.get(kind.partition("_")[0]) or "something else"
    hint = ""
    if kind == "string_type" and isinstance(value, int | float):
        hint = "quote it: unquoted digits are a number, and yes, no, on and off are true and false"
    elif kind == "literal_error":
        hint = suggestion(str(value), re.findall(r"'([^']+)'", context["expected"]))
    return f"it should be {template.format(**context)}", hint


def abbreviated(value: object, longest: int = 100) -> str:
    """A value's repr, cut off after `longest` characters."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def _place(details: ErrorDetails, origins: Origins) -> tuple[str, ...]:
    """Subject of an error: the path of a setting, or of a flag that several plug-ins share."""
    path = [str(part) for part in details["loc"]]
    shared = len(path) > 2 and ".".join(path) in origins.overrides
    return (origins.of(path), path[-1]) if shared else (*path, details["type"])


def _message(details: ErrorDetails, origins: Origins) -> tuple[str, str]:
    """Message and hint for one of pydantic's errors."""
    path = [str(part) for part in details["loc"] if part != "[key]"]
    name, where = ".".join(path), origins.of(path)
    if details["type"] == "extra_forbidden":
        if (current := current_names(name)) != [name]:
            return f"{where}: {name} is now called {' or '.join(current)}", ""
        return f"{where}: unknown setting {name!r}", _suggestion(path)
    conflict = details.get("ctx", {}).get("error")
    if isinstance(conflict, Conflict):
        settings = [
            f"{name}.{setting} = {abbreviated(value)} ({origins.of([*path, setting])})"
            for setting, value in conflict.settings.items()
        ]
        return f"{' and '.join(settings)} {conflict}", conflict.hint
    message, hint = expected(details)
    return f"{where}: {name} = {abbreviated(details['input'])}: {message}", hint


def _suggestion(path: Sequence[str]) -> str:
    """The closest settings to an unknown one and, for a plug-in, all of its settings."""
    known = known_names(path)
    hint = suggestion(path[-1], known)
    if len(path) < 3:
        return hint
    return "; ".join(part for part in (hint, f"settings of {path[1]}: {', '.join(known) or 'none'}") if part)
