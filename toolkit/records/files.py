"""Write records as JSON, completely, and read them strictly. Reading converts files of older schemas."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from toolkit import __version__, strict_json
from toolkit.errors import RecordError
from toolkit.records.schema import current_schema, is_record, types_of, without_none
from toolkit.records.upgrades import UPGRADES, Content

Record = TypeVar("Record")

_PLAIN_LIST = re.compile(r"\[\n[^\[\]{}]*\n\s*\]")
_NO_STEPS = range(sys.maxsize, sys.maxsize)
"""Schema steps of a record that has no number and is not inside another."""


def dumps(record: object) -> str:
    """A record, or a list of records, as JSON: one line per field, lists of plain values on one line."""
    text = json.dumps(record, indent=2, default=asdict)
    # A line break is always structure, never content: JSON escapes those inside strings.
    return _PLAIN_LIST.sub(lambda match: _on_one_line(match[0]), text) + "\n"


def _on_one_line(text: str) -> str:
    return re.sub(r"\n\s*", " ", text).replace("[ ", "[").replace(" ]", "]")


def save(record: object, path: Path) -> None:
    """Write a record into an existing folder."""
    path.write_text(dumps(record), encoding="utf-8")


def load(kind: type[Record], path: Path, *, validated: bool = False) -> Record:
    """Read a record of this kind from a file; see `loads`."""
    return loads(kind, strict_json.text_of(path), str(path), validated=validated)


def loads(kind: type[Record], text: str, source: str = "record", *, validated: bool = False) -> Record:
    """Read a record of this kind from a string; `source` names it in errors.

    Raises RecordError for a newer schema, an unknown or missing field, or a value of another type. `validated` omits
    the check of types and unknown fields: devices have no pydantic, and read what the host has checked.
    """
    content = strict_json.parse(text, source)
    if not isinstance(content, dict):
        raise RecordError(f"{source} is not a {kind.__name__}: it holds no JSON object")
    try:
        _upgrade(kind, content, kind.__name__, _NO_STEPS)
        if not validated:
            from toolkit.records import strict

            strict.validate(kind, content)
    except _Newer as error:
        raise RecordError(
            f"{source} has {error}, written by a newer version of the toolkit than {__version__}",
            "update it: pip install -U vit-toolkit",
        ) from None
    except ValueError as error:
        raise RecordError(
            f"{source} is not a {kind.__name__}: {error}", "it may come from another program: create it again"
        ) from None
    record: Record = _built(kind, content)
    return record


class _Newer(Exception):
    """A schema number above the current one."""


def _upgrade(kind: type, content: Content, path: str, steps: range) -> None:
    """Convert the content of a record, and of all records in it, to the current schema.

    `steps` are the numbers to upgrade from, for a record without a number of its own. Raises _Newer, and ValueError for
    fields that are missing.
    """
    current = current_schema(kind)
    if current is not None:
        steps = range(_schema_of(content, current, path), current)
    for step in steps:
        if upgrade := UPGRADES.get((kind, step)):
            try:
                upgrade(content)
            except (AttributeError, IndexError, KeyError, TypeError):
                raise ValueError(f"invalid fields of schema {step} @ {path}") from None
    required = [each.name for each in fields(kind) if each.metadata.get("since", 0) <= steps.start]
    if missing := [f"{path}.{name}" for name in required if name not in content]:
        raise ValueError(f"required field missing @ {', '.join(missing)}")
    if current is not None:
        content["schema"] = current
    for name, hint in types_of(kind).items():
        for part_kind, part, part_path in _records_in(hint, content.get(name), f"{path}.{name}"):
            _upgrade(part_kind, part, part_path, steps)


def _schema_of(content: Content, current: int, path: str) -> int:
    number = content.get("schema", current)
    if type(number) is not int or number < 1:
        raise ValueError(f"expected a number from 1 to {current}, got {number!r} @ {path}.schema")
    if number > current:
        raise _Newer(f"schema {number} @ {path}")
    return number


def _records_in(hint: Any, content: Any, path: str) -> Iterator[tuple[type, Content, str]]:
    """Kind, content and path of the records in the value of a field."""
    hint = without_none(hint)
    if not _holds_records(hint):
        return
    if is_record(hint) and isinstance(content, dict):
        yield hint, content, path
    elif get_origin(hint) is dict and isinstance(content, dict):
        for name, value in content.items():
            yield from _records_in(get_args(hint)[1], value, f"{path}[{name!r}]")
    elif get_origin(hint) is tuple and isinstance(content, list):
        for index, value in enumerate(content):
            yield from _records_in(get_args(hint)[0], value, f"{path}[{index}]")


@cache
def _holds_records(hint: Any) -> bool:
    """Whether a value of this type is or contains records; long lists of numbers are not searched."""
    return is_record(hint) or any(map(_holds_records, get_args(hint)))


def _built(hint: Any, content: Any) -> Any:
    """An instance of this type with this valid content."""
    hint, args = without_none(hint), get_args(without_none(hint))
    if content is None:
        return None
    if is_record(hint):
        types = types_of(hint)
        return hint(**{name: _built(types[name], value) for name, value in content.items()})
    if get_origin(hint) is dict:
        return {name: _built(args[1], value) for name, value in content.items()}
    if get_origin(hint) is tuple:
        if args == (float, ...):
            return tuple(map(float, content))
        hints = repeat(args[0]) if args[-1] is ... else args
        return tuple(_built(item_hint, item) for item_hint, item in zip(hints, content, strict=False))
    return float(content) if hint is float else content
