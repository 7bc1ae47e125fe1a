"""Bad input ends with a clear message, a hint and exit code 2; nothing is written, and nothing is lost."""

from __future__ import annotations

import resource
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


@pytest.fixture(scope="session")
def small_disk() -> Callable[[int], AbstractContextManager[None]]:
    """`with small_disk(9000):` no file may grow beyond so many bytes, as on a disk that is full."""

    @contextmanager
    def limited(bytes_free: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_free, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
