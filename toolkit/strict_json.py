"""Frozen dataclasses as diffable JSON, read strictly.

By default cattrs converts "3" to 3 and a string to a tuple of characters. Here, a value of another type, an unknown
field or a missing field is a `RecordError` that names the source and the field. Pure Python, so that it runs on any
device.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

from toolkit.characters import listed
from toolkit.errors import RecordError

if TYPE_CHECKING:  # cattrs is imported with the first record, so that the classes can be used without it
    from cattrs import BaseConverter
    from cattrs.preconf.json import JsonConverter

Record = TypeVar("Record")
Hook = Callable[[Any, Any], Any]

_PLAIN = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}
"""Accepted JSON types by field type."""
_PLAIN_LIST = re.compile(r"\[\n[^\[\]{}]*\n\s*\]")


def dumps(record: object) -> str:
    """A record as JSON: one line per field, lists of plain values on one line."""
    text = json.dumps(_converter().unstructure(record), indent=2)
    # A line break is always structure, never content: JSON escapes those inside strings.
    return _PLAIN_LIST.sub(lambda match: _on_one_line(match[0]), text) + "\n"


def save(record: object, path: Path) -> None:
    """Write a record into an existing folder."""
    path.write_text(dumps(record), encoding="utf-8")


def load(kind: type[Record], path: Path, schema: int) -> Record:
    """Read a record of this kind from a file; see `loads`."""
    return loads(kind, text_of(path), str(path), schema)


def text_of(path: Path) -> str:
    """A file's text; RecordError if it does not exist or is not UTF-8. Other OSErrors are raised as they are."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecordError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not JSON: it is not text in UTF-8") from error


def parse(text: str, source: str) -> Any:
    """Parse JSON; RecordError with `source`, line and column for invalid JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{source} is not JSON from line {error.lineno}, column {error.colno} on") from error
    except RecursionError as error:
        raise RecordError(f"{source} is not JSON of ours: it is nested too deeply") from error
    except ValueError as error:  # thousands of digits
        raise RecordError(f"{source} is not JSON of ours: it holds a number that is too long") from error


def loads(kind: type[Record], text: str, source: str, schema: int) -> Record:
    """Read a record of this kind from a string; `source` names it in errors, `schema` is the supported version."""
    content = parse(text, source)
    if not isinstance(content, dict):
        raise RecordError(f"{source} is not a {kind.__name__}: it holds no JSON object")
    version = content.get("schema", schema)
    if version != schema:
        raise RecordError(
            f"{source} has schema {version}; this version of the toolkit reads schema {schema}",
            "make it again with this version, or read it with the version that wrote it",
        )
    from cattrs import transform_error
    from cattrs.errors import ClassValidationError

    try:
        record = _converter().structure(content, kind)
        if missing := sorted(_missing_fields(content, _converter().unstructure(record), kind.__name__)):
            raise TypeError(f"required field missing: {', '.join(missing)}")
        return record
    except (ClassValidationError, ValueError, TypeError) as error:
        faults = transform_error(error, path=kind.__name__, format_exception=_message_of)
        raise RecordError(
            f"{source} is not a {kind.__name__}: {listed(faults, separator='; ')}",
            "another version may have written it: make it again",
        ) from None


def _missing_fields(content: Any, complete: Any, path: str) -> Iterator[str]:
    """Fields absent from the file: records are written completely, so defaults do not count."""
    if isinstance(complete, dict) and isinstance(content, dict):
        for name, value in complete.items():
            if name not in content:
                yield f"{path}.{name}"
            else:
                yield from _missing_fields(content[name], value, f"{path}.{name}")
    elif isinstance(complete, list | tuple) and isinstance(content, list):
        for index, (item, value) in enumerate(zip(content, complete, strict=True)):
            yield from _missing_fields(item, value, f"{path}[{index}]")


def _on_one_line(text: str) -> str:
    return re.sub(r"\n\s*", " ", text).replace("[ ", "[").replace(" ]", "]")


def _message_of(error: BaseException, kind: type[Any] | None) -> str:
    """Our own messages unchanged; cattrs formats the others."""
    from cattrs.v import format_exception

    return str(error) if type(error) is TypeError else format_exception(error, kind)


@cache
def _converter() -> JsonConverter:
    from cattrs.preconf.json import JsonConverter

    converter = JsonConverter(forbid_extra_keys=True)
    for kind, accepted in _PLAIN.items():
        converter.register_structure_hook(kind, _exactly(kind, accepted))
    converter.register_structure_hook_factory(_is_choice, _one_of)
    converter.register_structure_hook_factory(_is_choice_of_plain_values, _as_it_is)
    converter.register_structure_hook_factory(_is_tuple_of_any_length, _only_a_list)
    return converter


def _exactly(kind: type[Any], accepted: tuple[type[Any], ...]) -> Hook:
    def structure(value: Any, _: Any) -> Any:
        if type(value) not in accepted:
            raise TypeError(f"expected {kind.__name__}, got {value!r}")
        return kind(value)

    return structure


def _is_choice(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _one_of(kind: Any) -> Hook:
    def structure(value: Any, _: Any) -> Any:
        if value not in get_args(kind):
            raise TypeError(f"expected one of {', '.join(map(str, get_args(kind)))}, got {value!r}")
        return value

    return structure


def _is_choice_of_plain_values(kind: Any) -> bool:
    """Whether it is a union such as int | str; not int | None, which cattrs handles."""
    members = set(get_args(kind)) - {NoneType}
    return get_origin(kind) in (Union, UnionType) and len(members) > 1 and members <= set(_PLAIN)


def _as_it_is(kind: Any) -> Hook:
    def structure(value: Any, _: Any) -> Any:
        if type(value) not in get_args(kind):
            raise TypeError(f"expected {kind}, got {value!r}")
        return value

    return structure


def _is_tuple_of_any_length(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _only_a_list(kind: Any, converter: BaseConverter) -> Hook:
    """Reject strings and objects, which are iterable too and would become tuples of characters or keys."""
    from cattrs.cols import list_structure_factory

    items = list_structure_factory(kind, converter)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise TypeError(f"expected a list, got {value!r}")
        return tuple(items(value, kind))

    return structure
