"""JSON with error messages for users: `RecordError` names the file, and the line and column of invalid JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolkit.errors import RecordError


def text_of(path: Path) -> str:
    """A file's text; RecordError if it does not exist or is not UTF-8. Other OSErrors propagate unchanged."""
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
