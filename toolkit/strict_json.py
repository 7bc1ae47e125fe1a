"""JSON with error messages for users: `RecordError` names the file, and the line and column of invalid JSON."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.errors import RecordError

_PLAIN_LIST = re.compile(r"\[\n[^\[\]{}]*\n\s*\]")


def dumps(content: object) -> str:
    """JSON that diffs well: one line per field of a dataclass, lists of plain values on one line."""
    text = json.dumps(content, indent=2, default=asdict)
    # A line break is always structure, never content: JSON escapes those inside strings.
    return _PLAIN_LIST.sub(lambda match: _on_one_line(match[0]), text) + "\n"


def _on_one_line(text: str) -> str:
    return re.sub(r"\n\s*", " ", text).replace("[ ", "[").replace(" ]", "]")


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
