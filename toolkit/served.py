"""Server side of `isolated`: the process's main loop, and the messages between the two processes."""

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
    """Answer requests until the client closes the connection. The first request creates the object."""
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    target: Any = None
    lock = threading.Lock()  # libraries report progress from several threads

    def send(answer: object) -> None:
        with lock:
            link.send(answer)

    while (message := _receive(link)) is not None:
        try:
            request: Request | None = pickle.loads(message)
            del message  # it may be large
            if request is None:
                break
            answer = request.run(target, lambda *step: send(ProgressUpdate(*step)))
            if request.creates:
                target, answer = answer, None
            send(answer)
        except Exception as error:
            send(Raised.of(error))
    shutil.rmtree(folder, ignore_errors=True)


def _receive(link: Connection) -> bytes | None:
    try:
        return link.recv_bytes()
    except EOFError:
        return None


@dataclass(frozen=True)
class Request:
    """A function to call in the process."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    with_progress: bool = False
    """Whether the function takes a `progress` callback."""
    creates: bool = False
    """Whether the result stays in the process, as first argument of later calls."""

    def run(self, target: object, progress: Progress) -> Any:
        arguments = self.arguments if self.creates else (target, *self.arguments)
        return self.function(*arguments, progress=progress) if self.with_progress else self.function(*arguments)


class ProgressUpdate(NamedTuple):
    """Progress of the current request."""

    done: int
    total: int
    message: str = ""


@dataclass(frozen=True)
class Raised:
    """An exception of the current request."""

    error: Exception | None
    """None if its class belongs to the library."""
    message: str
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> Raised:
        message, trace = f"{type(error).__name__}: {plainly(error)}", "".join(traceback.format_exception(error))
        ours = isinstance(error, ToolkitError) or type(error).__module__ == "builtins"
        with suppress(Exception):  # not picklable, for example because of arguments of the library's classes
            if ours:
                pickle.loads(pickle.dumps(error))
                return cls(error, message, trace)
        return cls(None, message, trace)


def _end_with_parent(folder: str) -> None:
    """End with the parent process, which cannot clean up if it is killed."""
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
