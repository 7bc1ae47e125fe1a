"""Strict validation of a record's content by pydantic, with error messages in the records' own terms."""

from __future__ import annotations

import json
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from toolkit.characters import listed
from toolkit.records.schema import is_record, types_of, without_none

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def validate(kind: type, content: object) -> None:
    """Raise ValueError with the fields of parsed JSON that differ from the declaration of `kind`."""
    text = json.dumps([content], ensure_ascii=False)
    try:
        _validator(kind).validate_json(text.encode("utf-8", "replace"))  # file names may contain surrogates
    except ValidationError as error:
        # A value that fits no member of a union has one error per member.
        faults = dict.fromkeys(_message(kind, details) for details in error.errors(include_url=False))
        raise ValueError(listed(faults, separator="; ")) from None


@cache
def _validator(kind: type) -> TypeAdapter[Any]:
    """Validator of a list with one record: a dataclass itself does not accept a configuration."""
    return TypeAdapter(tuple[kind], config=ConfigDict(strict=True, extra="forbid"))  # type: ignore[valid-type]


def _message(kind: type, error: ErrorDetails) -> str:
    path, hint = _field_at(kind, error["loc"][1:])
    if error["type"] == "unexpected_keyword_argument":
        return f"unknown field @ {path}"
    if error["type"] == "missing":
        return f"required field missing @ {path}"
    return f"expected {_expected(hint)}, got {error['input']!r} @ {path}"


def _field_at(kind: type, location: tuple[int | str, ...]) -> tuple[str, Any]:
    """Path and type of a field: "ModelInfo.layouts[0].heads". Parts of a location that name members of a union are
    left out."""
    path = kind.__name__
    hint: Any = kind
    for part in location:
        hint, args = without_none(hint), get_args(without_none(hint))
        if is_record(hint):
            path, hint = f"{path}.{part}", types_of(hint).get(str(part))
        elif get_origin(hint) is tuple:
            path, hint = f"{path}[{part}]", args[0 if args[-1] is ... else int(part)]
        elif get_origin(hint) is dict:
            path, hint = f"{path}[{part!r}]", args[1]
    return path, hint


def _expected(hint: Any) -> str:
    """A type in words: "int", "a list", "one of fused, partly"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (Union, UnionType):
        return " or ".join(map(_expected, args))
    if origin is tuple:
        return "a list" if args[-1] is ... else f"a list of {len(args)}"
    if origin is dict or is_record(hint):
        return "an object"
    return "null" if hint is NoneType else str(hint.__name__)
