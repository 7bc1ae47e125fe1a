"""Names of factories, and which of them may be called. Imports nothing, so that any command can name one."""

from __future__ import annotations

import os
import re
from importlib import metadata

NAMED = "VIT_TOOLKIT_FACTORIES"
"""Environment variable: factories that may be called to load model folders that name them, separated by spaces."""
ENTRY_POINTS = "vit_toolkit.models"
"""Group of entry points by which installed packages offer factories."""
_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_factory(name: str) -> bool:
    """Whether `name` has the form package.module:function."""
    return _FACTORY.fullmatch(name) is not None


def allow(name: str) -> None:
    """Let this process and its subprocesses call the factory `name` for model folders that name it; ignores names of
    other models."""
    if is_factory(name) and name not in _named():
        os.environ[NAMED] = " ".join([*_named(), name])


def allowed(name: str) -> bool:
    """Whether a model folder's factory may be called: it was named, or an installed package offers it."""
    return name in _named() or any(point.value == name for point in metadata.entry_points(group=ENTRY_POINTS))


def _named() -> list[str]:
    return os.environ.get(NAMED, "").split()
