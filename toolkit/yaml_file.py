"""YAML as people write it: plain values, the line of every name, and one line in our words where it cannot be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from toolkit.errors import RecipeError

_SLIPS = (
    (r"'\\t'", "a tab", "indent with spaces"),
    (r"mapping values", "a second ':', or another indentation", "a text with ': ' in it needs quotes"),
    (r"cannot start any token", "a character that needs quotes", "put the text in quotes"),
    (r"<stream end>", "a bracket that is not closed", "close it"),
    (r"end of stream", "a quote that is not closed", "close it"),
    (r"<block end>", "another indentation, or text after a quote", "what belongs together begins in one column"),
    (r"expected ':'", "a line without ':'", "settings are NAME: VALUE"),
    (r"undefined alias", "a '*' that names no anchor", "put the text in quotes"),
    (r"constructor for the tag", "a tag, such as ! or =", "put the text in quotes"),
    (r"another document", "a second document after ---", "keep one"),
    (r"escape", "a '\\' inside double quotes", "use single quotes"),
    (r"for merging", "a '<<' that names no section", "put '<<' in quotes"),
    (r"unhashable", "a name that is no text", "settings are NAME: VALUE"),
)
"""What yaml says, what there is then, and how to mend it."""


class _Slip(yaml.MarkedYAMLError):
    """What YAML allows, and we do not."""

    def __init__(self, problem: str, node: yaml.Node) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    """Plain values: 1e-5 is a number, a date is a text, and no name is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise _Slip(f"{key.value!r} is there twice, first in line {seen[key.value]}", key)
                seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read(file: Path) -> Any:
    """What a file holds. An OSError is the caller's."""
    return parse(_text(file), str(file))


def parse(text: str, source: str) -> Any:
    """What a text holds; RecipeError with `source` and the line where it cannot be read."""
    try:
        node = yaml.compose(text, _Loader)
        for _ in _names(node, "", ()):
            pass
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        problem = str(error.problem)
        begun = "stream" in problem or "expected ':'" in problem  # yaml sees these only afterwards
        mark = error.context_mark if begun else error.problem_mark
        where = f"{source}, line {mark.line + 1}" if mark and "\n" in text else source
        if isinstance(error, _Slip):
            raise RecipeError(f"{where}: {problem}", "each name once, and no section inside itself") from error
        known = ((said, mend) for part, said, mend in _SLIPS if re.search(part, problem))
        said, mend = next(known, ("something that YAML does not allow", ""))
        raise RecipeError(f"{where}: not YAML: {said}", mend) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not YAML: it holds control characters", "save it as plain text") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{source} is not YAML: it holds a value that is too long or nested too deeply") from error


def lines(file: Path) -> dict[str, int]:
    """Dotted name of every setting in a file to its line, counted from 1."""
    return dict(_names(yaml.compose(_text(file), _Loader), "", ()))


def _text(file: Path) -> str:
    content = file.read_bytes()
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError(f"{file}, line {line}: not text in UTF-8", "save it in UTF-8") from error


def _names(node: yaml.Node | None, prefix: str, above: tuple[yaml.Node, ...]) -> Iterator[tuple[str, int]]:
    """Dotted names below a node and their lines. A node that is below itself is an error."""
    if node in above:
        assert node is not None
        raise _Slip("a value that holds itself", node)
    inside = (*above, node) if node is not None else above
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            yield name, key.start_mark.line + 1
            yield from _names(value, f"{name}.", inside)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _names(value, prefix, inside)
