"""Hashes of files, and of values independent of key order."""

from __future__ import annotations

import hashlib
from pathlib import Path

from toolkit import hashing


def test_sha256_of_a_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one chunk
    (tmp_path / "file").write_bytes(content)
    assert hashing.sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_equal_values_have_equal_digests() -> None:
    assert hashing.digest({"a": 1, "b": [2]}) == hashing.digest({"b": [2], "a": 1}) != hashing.digest({"a": 1})
