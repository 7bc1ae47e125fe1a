"""What the process of an `isolated` object does, and what goes between the two: calls, progress, answers and errors."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from toolkit.errors import ToolkitError, plainly
from toolkit.progress import Progress


def serve(link: Connection, folder: str) -> None:
    """What the process does: answer until the other side hangs up. The first request makes the object."""
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    held: Any = None
    lock = threading.Lock()  # libraries tell of their progress from several threads

    def send(answer: object) -> None:
        with lock:
            link.send(answer)

    while (message := _received(link)) is not None:
        try:
            request: Request | None = pickle.loads(message)
            del message  # it may hold a graph
            if request is None:
                break
            answer = request.answer(held, lambda *step: send(Told(*step)))
            if request.makes:
                held, answer = answer, None
            send(answer)
        except Exception as error:
            send(Raised.of(error))
    shutil.rmtree(folder, ignore_errors=True)


def _received(link: Connection) -> bytes | None:
    try:
        return link.recv_bytes()
    except EOFError:
        return None


@dataclass(frozen=True)
class Request:
    """A call on its way there."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    makes: bool = False
    """What it returns stays there, and later calls are given it first."""
    reports: bool = False

    def answer(self, held: object, report: Progress) -> Any:
        arguments = self.arguments if self.makes else (held, *self.arguments)
        return self.function(*arguments, report=report) if self.reports else self.function(*arguments)


class Told(NamedTuple):
    """Progress on its way back."""

    done: int
    total: int
    message: str = ""


@dataclass(frozen=True)
class Raised:
    """An error on its way back."""

    error: Exception | None
    """None where it is of a class that only the library has."""
    words: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Raised:
        words, trace = f"{type(error).__name__}: {plainly(error)}", "".join(traceback.format_exception(error))
        ours = isinstance(error, ToolkitError) or type(error).__module__ == "builtins"
        with suppress(Exception):  # such as arguments of the library's classes
            if ours:
                pickle.loads(pickle.dumps(error))
                return cls(error, words, trace)
        return cls(None, words, trace)


def _end_with_parent(folder: str) -> None:
    """A kill leaves the other side no time to end this one, and to remove its folder."""
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
