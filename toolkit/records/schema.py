"""Schema numbers of records.

The last field of a record that is a file or a message is `schema: int = N`, the current schema number of its kind.
Raise it with every change of the fields, also of those of inner records without a number. Declare new fields with
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
    """A field that was added with this schema number; `default` is its value in older files.

    In a record without a number of its own, this is the number of the enclosing record.
    """
    return field(default_factory=lambda: copy(default), metadata={"since": schema})


@cache
def types_of(kind: type) -> dict[str, Any]:
    """Type of each field of a record."""
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def is_record(hint: object) -> TypeGuard[type]:
    """Whether a field's type is a record."""
    return is_dataclass(hint)


@cache
def without_none(hint: Any) -> Any:
    """`Kind` for `Kind | None`, all other types unchanged."""
    members = [member for member in get_args(hint) if member is not NoneType]
    return members[0] if get_origin(hint) in (Union, UnionType) and len(members) == 1 else hint


def current_schema(kind: type) -> int | None:
    """Current schema number of a kind of record; None if it has none of its own."""
    default = next((each.default for each in fields(kind) if each.name == "schema"), None)
    return default if isinstance(default, int) else None
