"""Bad input ends with a clear message, a hint and exit code 2; nothing is written, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def refused(snapshot: Callable[..., dict[str, str]]) -> Callable[..., AbstractContextManager[None]]:
    """`with refused(folder, ".work"):` nothing in the folder changes, but for the parts named."""

    @contextmanager
    def unchanged(folder: Path, *but: str) -> Iterator[None]:
        before = snapshot(folder, *but)
        yield
        assert snapshot(folder, *but) == before

    return unchanged
