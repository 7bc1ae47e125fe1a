"""Schema numbers of records.

A kind of record that has files or messages ends with `schema: int = N`: its current schema number, which is raised with
every change of its fields, or of those of the records inside it that have no number. A new field is declared with
`since`; if a default is not enough for older files, `upgrades.py` converts them.
"""

from __future__ import annotations

from copy import copy
from dataclasses import field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

Value = TypeVar("Value")


def since(schema: int, default: Value) -> Value:
    """A field that files of this schema number and later have; `default` is its value in older ones.

    In a record without a number of its own, the number is that of the record around it.
    """
    return field(default_factory=lambda: copy(default), metadata={"since": schema})


@cache
def types_of(kind: type) -> dict[str, Any]:
    """Type of each field of a record; `Kind` instead of `Kind | None`."""
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def is_record(hint: object) -> TypeGuard[type]:
    """Whether a field's type is a record."""
    return is_dataclass(hint)


def without_none(hint: Any) -> Any:
    """`Kind` instead of `Kind | None`; unions of several types as they are."""
    members = [member for member in get_args(hint) if member is not NoneType]
    return members[0] if get_origin(hint) in (Union, UnionType) and len(members) == 1 else hint


def current_schema(kind: type) -> int | None:
    """Current schema number of a kind of record; None if it has none of its own."""
    default = next((each.default for each in fields(kind) if each.name == "schema"), None)
    return default if isinstance(default, int) else None
