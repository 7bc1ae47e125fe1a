"""Frozen dataclasses as JSON that a person can diff, read back strictly.

cattrs turns "3" into 3 and a string into a tuple of its characters; here a value of another type, an unknown field or a
missing one is a `RecordError` that names the source and the field. Pure Python, so that it runs on any device.
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

if TYPE_CHECKING:  # cattrs is loaded with the first record: their kinds are of use where it is not installed
    from cattrs import BaseConverter
    from cattrs.preconf.json import JsonConverter

Record = TypeVar("Record")
Hook = Callable[[Any, Any], Any]

_PLAIN = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}
"""A field's type and what JSON may hold for it."""
_PLAIN_LIST = re.compile(r"\[\n[^\[\]{}]*\n\s*\]")


def dumps(record: object) -> str:
    """A record as JSON: a line for each field, a list of plain values on one line."""
    text = json.dumps(_converter().unstructure(record), indent=2)
    # A line break is always structure, never content: JSON escapes those inside strings.
    return _PLAIN_LIST.sub(lambda found: _on_one_line(found[0]), text) + "\n"


def save(record: object, path: Path) -> None:
    """Write a record. The caller makes the folder; a stage's folder appears as a whole (see runfolder)."""
    path.write_text(dumps(record), encoding="utf-8")


def load(kind: type[Record], path: Path, schema: int) -> Record:
    """The record of this kind that a file holds; see `loads`."""
    return loads(kind, text_of(path), str(path), schema)


def text_of(path: Path) -> str:
    """What a file holds. Other OSErrors than that it is not there are the caller's."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecordError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not JSON: it is not text in UTF-8") from error


def parse(text: str, source: str) -> Any:
    """The plain values that `text` holds; RecordError with `source`, line and column where it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{source} is not JSON from line {error.lineno}, column {error.colno} on") from error
    except RecursionError as error:
        raise RecordError(f"{source} is not JSON of ours: it is nested too deeply") from error
    except ValueError as error:  # thousands of digits
        raise RecordError(f"{source} is not JSON of ours: it holds a number that is too long") from error


def loads(kind: type[Record], text: str, source: str, schema: int) -> Record:
    """The record of this kind that `text` holds; `source` names the text in errors, `schema` is the format we read."""
    content = parse(text, source)
    if not isinstance(content, dict):
        raise RecordError(f"{source} is not a {kind.__name__}: it holds no JSON object")
    found = content.get("schema", schema)
    if found != schema:
        raise RecordError(
            f"{source} has schema {found}; this version of the toolkit reads schema {schema}",
            "make it again with this version, or read it with the version that wrote it",
        )
    from cattrs import transform_error
    from cattrs.errors import ClassValidationError

    try:
        record = _converter().structure(content, kind)
        if left_out := sorted(_left_out(content, _converter().unstructure(record), kind.__name__)):
            raise TypeError(f"required field missing: {', '.join(left_out)}")
        return record
    except (ClassValidationError, ValueError, TypeError) as error:
        faults = transform_error(error, path=kind.__name__, format_exception=_described)
        raise RecordError(
            f"{source} is not a {kind.__name__}: {listed(faults, separator='; ')}",
            "another version may have written it: make it again",
        ) from None


def _left_out(content: Any, whole: Any, path: str) -> Iterator[str]:
    """Fields that a default has filled in: we write every field, so a missing one was lost."""
    if isinstance(whole, dict) and isinstance(content, dict):
        for name, value in whole.items():
            if name not in content:
                yield f"{path}.{name}"
            else:
                yield from _left_out(content[name], value, f"{path}.{name}")
    elif isinstance(whole, list | tuple) and isinstance(content, list):
        for index, (own, value) in enumerate(zip(content, whole, strict=True)):
            yield from _left_out(own, value, f"{path}[{index}]")


def _on_one_line(text: str) -> str:
    return re.sub(r"\n\s*", " ", text).replace("[ ", "[").replace(" ]", "]")


def _described(error: BaseException, kind: type[Any] | None) -> str:
    """Our own messages as they are; cattrs words the rest."""
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
            raise TypeError(f"expected {kind.__name__}, found {value!r}")
        return kind(value)

    return structure


def _is_choice(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _one_of(kind: Any) -> Hook:
    def structure(value: Any, _: Any) -> Any:
        if value not in get_args(kind):
            raise TypeError(f"expected one of {', '.join(map(str, get_args(kind)))}, found {value!r}")
        return value

    return structure


def _is_choice_of_plain_values(kind: Any) -> bool:
    """int | str, but not int | None, where None decides."""
    members = set(get_args(kind)) - {NoneType}
    return get_origin(kind) in (Union, UnionType) and len(members) > 1 and members <= set(_PLAIN)


def _as_it_is(kind: Any) -> Hook:
    def structure(value: Any, _: Any) -> Any:
        if type(value) not in get_args(kind):
            raise TypeError(f"expected {kind}, found {value!r}")
        return value

    return structure


def _is_tuple_of_any_length(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _only_a_list(kind: Any, converter: BaseConverter) -> Hook:
    """A string or an object is iterable too, and would pass for a tuple of its characters or keys."""
    from cattrs.cols import list_structure_factory

    items = list_structure_factory(kind, converter)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise TypeError(f"expected a list, found {value!r}")
        return tuple(items(value, kind))

    return structure
