"""A process of its own for other people's native code, whose death is then seen and named.

    with Isolated(Guest("OpenVINO 2026.4"), "compiling model.xml", compiled, file) as model:
        logits = model.call("running model.xml", infer, images)

`compiled(file)` makes an object over there, which stays there; `infer(object, images)` is called on it. Functions,
arguments and results are pickled; what a function raises is raised here. The process has its own folder for temporary
files, and ends with the block, with this process, and with an interrupt, all that it has started and written with it.

It is a new Python, not a fork: threads of this process are no danger to it, and the caller's program is not run again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from importlib import metadata
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from toolkit.characters import printable_lines, without_colours
from toolkit.errors import CheckFailed, LibraryDied, plainly
from toolkit.progress import Progress
from toolkit.served import Raised, Request, Told

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Arguments = TypeVarTuple("Arguments")

Kind = TypeVar("Kind")
Result = TypeVar("Result")

PROGRAM = """
import os, sys
sys.path = [folder for folder in sys.path if folder]  # not the current one
from multiprocessing.connection import Connection
link = Connection(int(sys.argv[1]))
os.set_inheritable(link.fileno(), False)
sys.path[:] = link.recv()
from toolkit.served import serve
serve(link, sys.argv[2])
"""
SHOWN_LINES, SHOWN_BYTES = 12, 1 << 16
"""How much of a dead process's stderr is shown, and how much of it is looked at."""
END_SECONDS = 10.0
"""A library that takes longer to clean up is ended."""
POLL_SECONDS = 0.5
"""How often a system without pidfds is asked whether the process has ended."""


class Guest(NamedTuple):
    """A library that runs in a process of its own."""

    name: str
    hint: str = ""
    """What to do when it dies."""

    @classmethod
    def installed(cls, name: str, packages: Sequence[str], hint: str = "") -> Guest:
        """The library with its version, which the first of `packages` that is installed has."""
        for package in packages:
            with suppress(metadata.PackageNotFoundError):
                return cls(f"{name} {metadata.version(package)}", hint)
        return cls(name, hint)


class Isolated(Generic[Kind]):
    """An object in a process of its own. See the module."""

    def __init__(
        self,
        guest: Guest,
        doing: str,
        make: Callable[[Unpack[Arguments]], Kind],
        *arguments: Unpack[Arguments],
    ) -> None:
        """Start the process, and make the object there. `doing` is for an error: "compiling model.xml"."""
        self._guest, self._killed = guest, False
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="toolkit-", ignore_cleanup_errors=True))
            self._said = stack.enter_context(tempfile.TemporaryFile())
            self._process, self._link = _started(guest, folder, self._said)
            self._pidfd = _pidfd(self._process.pid, stack)
            stack.callback(self._end)
            self._ask(doing, Request(make, arguments, makes=True))
            self._room = stack.pop_all()

    def call(
        self,
        doing: str,
        function: Callable[[Kind, Unpack[Arguments]], Result],
        *arguments: Unpack[Arguments],
        report: Progress | None = None,
    ) -> Result:
        """`function(object, *arguments)`, done there; with a listener, it is given `report=` and told as it goes on.

        Raises what the function raises, CheckFailed for errors of the library's own kinds, and LibraryDied.
        """
        return self._ask(doing, Request(function, arguments, reports=report is not None), report)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process; it can be called no more."""
        self._room.close()

    def __enter__(self) -> Isolated[Kind]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, doing: str, request: Request, report: Progress | None = None) -> Any:
        if self._link.closed:
            raise RuntimeError(f"the process of {self._guest.name} is closed")
        try:
            if self._process.poll() is not None:
                raise EOFError
            self._link.send(request)
            while isinstance(answer := self._received(), Told):
                assert report is not None
                report(*answer)
        except (EOFError, ConnectionError):
            raise self._death(doing) from None
        except BaseException:  # an interrupt, or the listener's own error: nobody waits for the answer any more
            self._kill()
            raise
        if isinstance(answer, Raised):
            error = answer.error
            if error is None:
                error = CheckFailed(f"{self._guest.name} failed while {doing}: {answer.words}", self._guest.hint)
            raise error from _There(answer.trace)
        return answer

    def _received(self) -> Any:
        """What comes next; EOFError where the process has ended, though its forks may hold the connection open."""
        while self._process.poll() is None:
            if self._link in wait([self._link, *self._pidfd], None if self._pidfd else POLL_SECONDS):
                return self._link.recv()
        self._kill()
        if not self._link.poll():
            raise EOFError
        return self._link.recv()

    def _death(self, doing: str) -> LibraryDied:
        code = self._process.wait()
        self._kill()
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - SHOWN_BYTES))
        said = last_lines(self._said.read().decode(errors="replace"))
        return LibraryDied(
            "\n".join([f"{self._guest.name} {ending(code)} while {doing}", *said]), advice(code, self._guest.hint)
        )

    def _kill(self) -> None:
        """End it and what it has started. Once: the number of a process that is gone may become another's."""
        if self._killed:
            return
        self._killed = True
        with suppress(ProcessLookupError, PermissionError):  # nothing of it is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _end(self) -> None:
        with suppress(OSError):  # it has ended
            self._link.send(None)  # forks of this process may hold the connection open
        self._link.close()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        finally:
            self._kill()
            assert self._process.stdin is not None
            self._process.stdin.close()


def ending(code: int) -> str:
    """ "was ended by signal 11 (SIGSEGV)", for the exit code that `subprocess` gives."""
    if code >= 0:
        return f"ended with exit code {code}"
    names = {each.value: f" ({each.name})" for each in signal.Signals}
    return f"was ended by signal {-code}{names.get(-code, '')}"


def advice(code: int, hint: str = "") -> str:
    """What to do about it."""
    if code == -signal.SIGKILL:
        return "a system ends a process in this way when memory runs out: a smaller batch size needs less"
    if code == -signal.SIGILL:
        return "it was built for CPUs with other instructions: install a build for this one"
    if code >= 0:
        return hint
    return "; ".join(filter(None, (hint, "the fault is the library's own: its makers may want to hear of it")))


def last_lines(text: str) -> list[str]:
    """The end of what a process said, without what is for terminals only."""
    lines = printable_lines(without_colours(text))
    return [line for line in lines if line.strip()][-SHOWN_LINES:]


class _There(Exception):
    """Where an error was raised: shown above the traceback of this side."""

    def __init__(self, trace: str) -> None:
        super().__init__(f"\n{trace}")


def _started(guest: Guest, folder: str, said: IO[bytes]) -> tuple[subprocess.Popen[bytes], Connection]:
    """The process, and the connection to it. A session of its own, so that an interrupt from the terminal is for this
    process alone; its stdin is never written to, and ends when this process does."""
    ours, theirs = Pipe()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno()), folder],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "TMPDIR": folder},
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise LibraryDied(f"no process could be started for {guest.name}: {plainly(error)}") from error
    with suppress(BrokenPipeError):  # dead already: the first call says so
        ours.send(sys.path)
    return process, ours


def _pidfd(pid: int, stack: ExitStack) -> list[int]:
    """What can be read from when the process has ended, closed with the stack; nothing where a system has no such."""
    try:
        opened = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return []
    stack.callback(os.close, opened)
    return [opened]
