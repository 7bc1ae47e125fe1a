"""Bad input ends with a clear message, a hint and exit code 2; nothing is written, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def unchanged(snapshot: Callable[..., dict[str, str]]) -> Callable[..., AbstractContextManager[None]]:
    """`with unchanged(folder, ".work"):` nothing in the folder changes, but for the parts named."""

    @contextmanager
    def watched(folder: Path, *but: str) -> Iterator[None]:
        before = snapshot(folder, *but)
        yield
        assert snapshot(folder, *but) == before

    return watched
