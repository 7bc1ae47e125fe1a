"""YAML as people write it: what it holds, and one line of ours where it cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit import yaml_file
from toolkit.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "found"),
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
def test_plain_values(text: str, found: object) -> None:
    assert yaml_file.parse(text, "here") == found


@pytest.mark.parametrize(
    ("text", "said", "mend"),
    [
        ("a:\n\tb: 1\n", "here, line 2: not YAML: a tab", "indent with spaces"),
        ("a: 1\nb: c: d\n", "here, line 2: not YAML: a second ':'", "needs quotes"),
        ("a: 1\n b: 2\n", "here, line 2: not YAML: a second ':', or another indentation", ""),
        ("a:\n  - 1\n - 2\n", "here, line 3: not YAML: another indentation", "one column"),
        ("a: 1\nb: [1\n", "here, line 2: not YAML: a bracket that is not closed", "close it"),
        ("a: 'x\nb: 1\n", "here, line 1: not YAML: a quote that is not closed", "close it"),
        ("a: 1\nhello\n", "here, line 2: not YAML: a line without ':'", "NAME: VALUE"),
        ("@a: 1", "here: not YAML: a character that needs quotes", ""),
        ("a: *b", "here: not YAML: a '*' that names no anchor", ""),
        ("a: !!python/object:os.system x", "here: not YAML: a tag", ""),
        ("{[1]: 2}", "here: not YAML: a name that is no text", ""),
        ("<<: 5", "here: not YAML: a '<<'", ""),
        ("a: 1\n---\nb: 2\n", "here, line 2: not YAML: a second document", ""),
        (r'a: "C:\data"', r"here: not YAML: a '\' inside double quotes", "single quotes"),
        ("a: |x", "here: not YAML: something that YAML does not allow", ""),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "here, line 5: 'c' is there twice, first in line 3", "once"),
        ("a: &x\n  b: *x\n", "here, line 1: a value that holds itself", ""),
        ("a: &x [*x]", "here: a value that holds itself", ""),
        ("a: \x00", "here is not YAML: it holds control characters", "plain text"),
        ("a: " + "9" * 5000, "here is not YAML: it holds a value that is too long", ""),
        ("[" * 5000, "here is not YAML: it holds a value that is too long or nested too deeply", ""),
    ],
)
def test_what_cannot_be_read_is_said_in_our_words(text: str, said: str, mend: str) -> None:
    with pytest.raises(RecipeError) as caught:
        yaml_file.parse(text, "here")
    assert caught.value.message.startswith(said)
    assert mend in caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: café\n", encoding=encoding)
    assert yaml_file.read(tmp_path / "a.yaml") == {"a": "café"}
    (tmp_path / "a.yaml").write_bytes("a: 1\nb: café\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"a\.yaml, line 2: not text in UTF-8"):
        yaml_file.read(tmp_path / "a.yaml")


def test_lines_of_all_names(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# first\nseed: 1\nprune:\n  ratio: 0.5\n  axes: [mlp]\n")
    assert yaml_file.lines(tmp_path / "a.yaml") == {"seed": 2, "prune": 3, "prune.ratio": 4, "prune.axes": 5}
