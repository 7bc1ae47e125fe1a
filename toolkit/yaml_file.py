"""Read YAML settings: plain values, line numbers, and one-line error messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from toolkit.errors import RecipeError

_ERRORS = (
    (r"'\\t'", "a tab", "indent with spaces"),
    (r"mapping values", "a second ':', or inconsistent indentation", "quote texts that contain ': '"),
    (r"cannot start any token", "a character that needs quotes", "quote the text"),
    (r"<stream end>", "an unclosed bracket", "close it"),
    (r"end of stream", "an unclosed quote", "close it"),
    (r"<block end>", "inconsistent indentation, or text after a quote", "indent settings of a section equally"),
    (r"expected ':'", "a line without ':'", "write settings as NAME: VALUE"),
    (r"undefined alias", "a '*' without an anchor", "quote the text"),
    (r"constructor for the tag", "a tag, such as ! or =", "quote the text"),
    (r"another document", "a second document after ---", "keep one document"),
    (r"escape", "a '\\' inside double quotes", "use single quotes"),
    (r"for merging", "a '<<' that is not followed by a section", "quote '<<'"),
    (r"unhashable", "a name that is not a text", "write settings as NAME: VALUE"),
)
"""Pattern of PyYAML's message, our description of the problem, and a hint."""


class _Rejected(yaml.MarkedYAMLError):
    """Valid YAML that is not accepted as settings."""

    def __init__(self, problem: str, node: yaml.Node) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    """Loader for plain values: 1e-5 is a number, a date is a text, and duplicate names are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_line: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in first_line:
                    raise _Rejected(f"{key.value!r} is set twice, first in line {first_line[key.value]}", key)
                first_line[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read(file: Path) -> Any:
    """Parse a file; RecipeError if it is invalid. Does not catch OSError."""
    return parse(_text(file), str(file))


def parse(text: str, source: str) -> Any:
    """Parse a text; RecipeError with `source` and the line if it is invalid."""
    try:
        node = yaml.compose(text, _Loader)
        for _ in _names(node, "", ()):
            pass
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        problem = str(error.problem)
        late = "stream" in problem or "expected ':'" in problem  # PyYAML detects these only after their position
        mark = error.context_mark if late else error.problem_mark
        where = f"{source}, line {mark.line + 1}" if mark and "\n" in text else source
        if isinstance(error, _Rejected):
            raise RecipeError(f"{where}: {problem}", "use each name once, and no section inside itself") from error
        matches = ((message, hint) for pattern, message, hint in _ERRORS if re.search(pattern, problem))
        message, hint = next(matches, ("a syntax error", ""))
        raise RecipeError(f"{where}: invalid YAML: {message}", hint) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: invalid YAML: control characters", "save it as plain text") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{source}: invalid YAML: a value that is too long or nested too deeply") from error


def lines(file: Path) -> dict[str, int]:
    """Line numbers, from 1, of all settings in a file, by dotted name."""
    return dict(_names(yaml.compose(_text(file), _Loader), "", ()))


def _text(file: Path) -> str:
    content = file.read_bytes()
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError(f"{file}, line {line}: invalid UTF-8", "save it in UTF-8") from error


def _names(node: yaml.Node | None, prefix: str, above: tuple[yaml.Node, ...]) -> Iterator[tuple[str, int]]:
    """Dotted names below a node, with their lines. Raises _Rejected for a node inside itself."""
    if node in above:
        assert node is not None
        raise _Rejected("a value that contains itself", node)
    inside = (*above, node) if node is not None else above
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            yield name, key.start_mark.line + 1
            yield from _names(value, f"{name}.", inside)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _names(value, prefix, inside)
