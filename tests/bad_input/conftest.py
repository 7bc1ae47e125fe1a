"""Bad input ends with a clear message, a hint and exit code 2; nothing is written, and nothing is lost."""

from __future__ import annotations

import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from toolkit.stages import IMAGE_CHECK


@pytest.fixture(scope="session")
def unchanged(snapshot: Callable[..., dict[str, str]]) -> Callable[..., AbstractContextManager[None]]:
    """`with unchanged(folder, ".work"):` nothing in the folder changes, except for the named parts and for the results
    of checking images, which any command writes."""

    @contextmanager
    def watched(folder: Path, *but: str) -> Iterator[None]:
        before = snapshot(folder, IMAGE_CHECK, *but)
        yield
        assert snapshot(folder, IMAGE_CHECK, *but) == before

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


RAW = re.compile(
    r"\x1b|Traceback|(site|dist)-packages|\.py:\d+|Unpickl|GLOBAL|weights_only(?!=False)|Input should|pydantic"
    r"|is invalid for input|Error\(s\) in loading|HeaderTooLarge|while (parsing|scanning|constructing)|codec can't"
    r"|__init__|Errno|NoneType|object has no attribute|(Key|Value|Type|Runtime|Attribute|Assertion|OS)Error"
)
"""Words of Python, torch, timm, pydantic, safetensors and yaml that are not for a user."""


@pytest.fixture(scope="session")
def in_our_words() -> Callable[[Any], str]:
    """`in_our_words(ended)`: the error of a command that refused its input, which is ours alone and one line."""

    def checked(ended: Any) -> str:
        assert (ended.code, ended.out) == (2, ""), ended.err
        found = RAW.search(ended.err)
        assert found is None, f"{found} in {ended.err}"
        (error,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        return str(error)

    return checked


@pytest.fixture(scope="module")
def same_here(finished: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run, shared by all commands that must not change it."""
    folder = tmp_path_factory.mktemp("bad") / "work"
    shutil.copytree(finished[0], folder)
    return folder
