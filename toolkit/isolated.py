"""Run native third-party code in a separate process, so that a crash becomes an error that names the library.

    with Isolated(NativeLibrary("OpenVINO 2026.4"), "compiling model.xml", compiled, file) as model:
        logits = model.call("running model.xml", infer, images)

`compiled(file)` creates an object that stays in the process; `infer(object, images)` is called on it there. Functions,
arguments and results are pickled; exceptions are raised in the caller. The process has its own temporary folder. It
ends with the block, with this process, and on an interrupt, together with its child processes and temporary files.

It is a new interpreter, not a fork: it inherits no threads and does not run the caller's script again.
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

from toolkit.characters import printable_lines, strip_ansi
from toolkit.errors import CheckFailed, LibraryDied, plainly
from toolkit.progress import Progress
from toolkit.served import ProgressUpdate, Raised, Request

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Arguments = TypeVarTuple("Arguments")

Kind = TypeVar("Kind")
Result = TypeVar("Result")

PROGRAM = """
import os, sys
sys.path = [folder for folder in sys.path if folder]  # not the current folder
from multiprocessing.connection import Connection
link = Connection(int(sys.argv[1]))
os.set_inheritable(link.fileno(), False)
sys.path[:] = link.recv()
from toolkit.served import serve
serve(link, sys.argv[2])
"""
SHOWN_LINES, SHOWN_BYTES = 12, 1 << 16
"""Lines of a crashed process's output that are shown, and bytes that are read to find them."""
END_SECONDS = 10.0
"""Time for a library to clean up before it is killed."""
POLL_SECONDS = 0.5
"""Polling interval for the end of the process, on systems without pidfds."""


class NativeLibrary(NamedTuple):
    """A library to run in a separate process, as named in error messages."""

    name: str
    hint: str = ""
    """Hint for errors of the library."""

    @classmethod
    def installed(cls, name: str, packages: Sequence[str], hint: str = "") -> NativeLibrary:
        """The library with the version of the first of `packages` that is installed."""
        for package in packages:
            with suppress(metadata.PackageNotFoundError):
                return cls(f"{name} {metadata.version(package)}", hint)
        return cls(name, hint)


class Isolated(Generic[Kind]):
    """An object of type `Kind` in a separate process."""

    def __init__(
        self,
        library: NativeLibrary,
        action: str,
        make: Callable[[Unpack[Arguments]], Kind],
        *arguments: Unpack[Arguments],
    ) -> None:
        """Start the process and create the object in it. `action` is for error messages: "compiling model.xml"."""
        self._library, self._killed = library, False
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="toolkit-", ignore_cleanup_errors=True))
            self._output = stack.enter_context(tempfile.TemporaryFile())
            self._process, self._link = _start(library, folder, self._output)
            self._pidfd = _pidfd(self._process.pid, stack)
            stack.callback(self._end)
            self._request(action, Request(make, arguments, creates=True))
            self._resources = stack.pop_all()

    def call(
        self,
        action: str,
        function: Callable[[Kind, Unpack[Arguments]], Result],
        *arguments: Unpack[Arguments],
        progress: Progress | None = None,
    ) -> Result:
        """Run `function(object, *arguments)` in the process; with `progress`, the function gets a `progress=` callback.

        Raises what the function raises, CheckFailed for the library's own exception classes, and LibraryDied.
        """
        return self._request(action, Request(function, arguments, progress is not None), progress)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process; no calls are possible afterwards."""
        self._resources.close()

    def __enter__(self) -> Isolated[Kind]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, action: str, request: Request, progress: Progress | None = None) -> Any:
        if self._link.closed:
            raise RuntimeError(f"the process of {self._library.name} is closed")
        try:
            if self._process.poll() is not None:
                raise EOFError
            self._link.send(request)
            while isinstance(answer := self._receive(), ProgressUpdate):
                assert progress is not None
                progress(*answer)
        except (EOFError, ConnectionError):
            raise self._crash(action) from None
        except BaseException:  # an interrupt or an error in the progress callback: the answer is no longer needed
            self._kill()
            raise
        if isinstance(answer, Raised):
            error = answer.error
            if error is None:
                error = CheckFailed(f"{self._library.name} failed while {action}: {answer.message}", self._library.hint)
            raise error from _RemoteTraceback(answer.traceback)
        return answer

    def _receive(self) -> Any:
        """The next message; EOFError if the process has ended, even while its forks hold the connection open."""
        while self._process.poll() is None:
            if self._link in wait([self._link, *self._pidfd], None if self._pidfd else POLL_SECONDS):
                return self._link.recv()
        self._kill()
        if not self._link.poll():
            raise EOFError
        return self._link.recv()

    def _crash(self, action: str) -> LibraryDied:
        code = self._process.wait()
        self._kill()
        self._output.seek(max(0, self._output.seek(0, os.SEEK_END) - SHOWN_BYTES))
        output = last_lines(self._output.read().decode(errors="replace"))
        return LibraryDied(
            "\n".join([f"{self._library.name} {exit_description(code)} while {action}", *output]),
            exit_hint(code, self._library.hint),
        )

    def _kill(self) -> None:
        """Kill the process group, at most once: process ids are reused."""
        if self._killed:
            return
        self._killed = True
        with suppress(ProcessLookupError, PermissionError):  # the whole group has ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _end(self) -> None:
        with suppress(OSError):  # the process has ended
            self._link.send(None)  # closing is not enough: forks of this process may hold the connection open
        self._link.close()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        finally:
            self._kill()
            assert self._process.stdin is not None
            self._process.stdin.close()


def exit_description(code: int) -> str:
    """Description of an exit code of `subprocess`: "was ended by signal 11 (SIGSEGV)"."""
    if code >= 0:
        return f"ended with exit code {code}"
    names = {known.value: f" ({known.name})" for known in signal.Signals}
    return f"was ended by signal {-code}{names.get(-code, '')}"


def exit_hint(code: int, hint: str = "") -> str:
    """Hint for an exit code; `hint` is the library's own."""
    if code == -signal.SIGKILL:
        return "the system may have run out of memory: try a smaller batch size"
    if code == -signal.SIGILL:
        return "it was built for another CPU: install a build for this one"
    if code >= 0:
        return hint
    return "; ".join(filter(None, (hint, "this is probably a bug in the library: consider reporting it")))


def last_lines(text: str) -> list[str]:
    """The last lines of a process's output, without ANSI codes and blank lines."""
    lines = printable_lines(strip_ansi(text))
    return [line for line in lines if line.strip()][-SHOWN_LINES:]


class _RemoteTraceback(Exception):
    """Traceback in the process, as the cause of an error that is raised in the caller."""

    def __init__(self, traceback: str) -> None:
        super().__init__(f"\n{traceback}")


def _start(library: NativeLibrary, folder: str, output: IO[bytes]) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start the process, and connect to it.

    It runs in a new session, so that it does not receive interrupts from the terminal. Its stdin is never written to;
    end of file tells it that this process has ended.
    """
    ours, theirs = Pipe()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno()), folder],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "TMPDIR": folder},
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise LibraryDied(f"cannot start a process for {library.name}: {plainly(error)}") from error
    with suppress(BrokenPipeError):  # it has ended already, which the first call reports
        ours.send(sys.path)
    return process, ours


def _pidfd(pid: int, stack: ExitStack) -> list[int]:
    """A file descriptor that is readable once the process has ended, closed by `stack`; empty if unsupported."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return []
    stack.callback(os.close, descriptor)
    return [descriptor]
