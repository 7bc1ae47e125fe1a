"""Refuse arguments of the Python API that would have no effect, with an error that names them."""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.errors import BadInput


def section(
    name: str, arguments: Mapping[str, object], settings: Mapping[str, object] | None, instead: Mapping[str, str]
) -> dict[str, dict[str, object]]:
    """The section of a recipe that a function is called with.

    arguments: its settings that are arguments. instead: what replaces a setting that the function does not take.
    Raises BadInput for `settings` that are in one of the two.
    """
    hints = {**{argument: f"it is the argument `{argument}`" for argument in arguments}, **instead}
    for setting in settings or {}:
        if setting in hints:
            raise BadInput(f"toolkit.{name} takes no setting {setting!r}", hints[setting])
    return {name: {**arguments, **(settings or {})}}


def check_unset(arguments: Mapping[str, object], why: str) -> None:
    """Raise BadInput, with the reason, for arguments that are not empty, 0 or False."""
    if present := [name for name, value in arguments.items() if value]:
        raise BadInput(f"{', '.join(present)}: {why}", "leave it out")
