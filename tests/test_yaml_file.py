"""Parsing of hand-written YAML, and one-line errors for invalid YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit import yaml_file
from toolkit.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("2E+3", 2000.0),
        ("1.5e-3", 1.5e-3),
        ("e5", "e5"),
        ("2024-01-31", "2024-01-31"),
        ("no", False),
        ("", None),
        ("{a: &x [1, 2], b: *x}", {"a": [1, 2], "b": [1, 2]}),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    assert yaml_file.parse(text, "here") == value


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("a:\n\tb: 1\n", "here, line 2: invalid YAML: a tab", "indent with spaces"),
        ("a: 1\nb: c: d\n", "here, line 2: invalid YAML: a second ':'", "quote texts"),
        ("a: 1\n b: 2\n", "here, line 2: invalid YAML: a second ':', or inconsistent indentation", ""),
        ("a:\n  - 1\n - 2\n", "here, line 3: invalid YAML: inconsistent indentation", "equally"),
        ("a: 1\nb: [1\n", "here, line 2: invalid YAML: an unclosed bracket", "close it"),
        ("a: 'x\nb: 1\n", "here, line 1: invalid YAML: an unclosed quote", "close it"),
        ("a: 1\nhello\n", "here, line 2: invalid YAML: a line without ':'", "NAME: VALUE"),
        ("@a: 1", "here: invalid YAML: a character that needs quotes", ""),
        ("a: *b", "here: invalid YAML: a '*' without an anchor", ""),
        ("a: !!python/object:os.system x", "here: invalid YAML: a tag", ""),
        ("{[1]: 2}", "here: invalid YAML: a name that is not a text", ""),
        ("<<: 5", "here: invalid YAML: a '<<'", ""),
        ("a: 1\n---\nb: 2\n", "here, line 2: invalid YAML: a second document", ""),
        (r'a: "C:\data"', r"here: invalid YAML: a '\' inside double quotes", "single quotes"),
        ("a: |x", "here: invalid YAML: a syntax error", ""),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "here, line 5: 'c' is set twice, first in line 3", "once"),
        ("a: &x\n  b: *x\n", "here, line 1: a value that contains itself", ""),
        ("a: &x [*x]", "here: a value that contains itself", ""),
        ("a: \x00", "here: invalid YAML: control characters", "plain text"),
        ("a: " + "9" * 5000, "here: invalid YAML: a value that is too long", ""),
        ("[" * 5000, "here: invalid YAML: a value that is too long or nested too deeply", ""),
    ],
)
def test_invalid_yaml_gets_a_one_line_message(text: str, message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        yaml_file.parse(text, "here")
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: café\n", encoding=encoding)
    assert yaml_file.read(tmp_path / "a.yaml") == {"a": "café"}
    (tmp_path / "a.yaml").write_bytes("a: 1\nb: café\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"a\.yaml, line 2: invalid UTF-8"):
        yaml_file.read(tmp_path / "a.yaml")


def test_lines_of_all_names(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# first\nseed: 1\nprune:\n  ratio: 0.5\n  axes: [mlp]\n")
    assert yaml_file.lines(tmp_path / "a.yaml") == {"seed": 2, "prune": 3, "prune.ratio": 4, "prune.axes": 5}
