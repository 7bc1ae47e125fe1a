"""Objects in a separate process: results, crash messages, and cleanup."""

from __future__ import annotations

import importlib
import json
import operator
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from toolkit import isolated
from toolkit.errors import CheckFailed, LibraryDied, UnknownName, WrongMachine
from toolkit.isolated import Isolated, NativeLibrary, exit_description, last_lines

LIBRARY = NativeLibrary("Lib 1.0", "another --attention")
TOOLS = """
import os, signal, subprocess, sys, time
from toolkit.errors import UnknownName, WrongMachine

def work(held, progress):
    progress(1, 2, "half")
    progress(2, 2)
    return "done"

def refuse(held, own):
    raise UnknownName("format", "onx", ["onnx", "engine"]) if own else WrongMachine("not here", "elsewhere")

def die(held, path):
    os.write(1, b"on stdout")
    print("\\n\\33[31mlast words\\33[0m\\r", file=sys.stderr, flush=True)
    subprocess.Popen(["sleep", "60"], stdout=open(path, "w"))
    os.abort()

def fork_and_die(held, path):
    with open(path, "w") as life:
        if os.fork() == 0:
            time.sleep(20)
            life.write("slept")
        else:
            signal.raise_signal(signal.SIGSEGV)

def inherited(held):
    return [descriptor for descriptor in range(3, 100) if is_inherited(descriptor)]

def is_inherited(descriptor):
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False

def start(held, path, progress):
    subprocess.Popen(["sleep", "60"], stdout=open(path, "w"))
    progress(0, 1)

def start_slow(held, path):
    subprocess.Popen(["sh", "-c", "sleep 20; echo slept"], stdout=open(path, "w"))

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__("odd")

def odd(held):
    raise Odd(1, 2)
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that the other process can import."""
    (tmp_path / "isolated_tools.py").write_text(TOOLS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "isolated_tools", raising=False)
    return importlib.import_module("isolated_tools")


@dataclass(frozen=True)
class Life:
    """A FIFO that is held open by child processes."""

    path: Path
    reader: int

    def is_over(self) -> bool:
        """Block until all processes that hold it open have ended."""
        os.set_blocking(self.reader, True)
        return os.read(self.reader, 1) == b""


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    yield Life(tmp_path / "fifo", reader)
    os.close(reader)


def test_calls_on_an_object_in_the_process() -> None:
    with Isolated(LIBRARY, "making a list", list, "ab") as held:
        assert held.call("adding", list.append, "c") is None
        assert held.call("reading", list) == ["a", "b", "c"]
        assert held.call("asking", operator.attrgetter("__class__")) is list
    with pytest.raises(RuntimeError, match="closed"):
        held.call("reading", list)
    with Isolated(LIBRARY, "asking", os.getpid) as held:
        assert held.call("asking", abs) != os.getpid()


def test_large_arrays_are_sent_both_ways() -> None:
    images = np.arange(3_000_000, dtype=np.float32).reshape(3, 1000, 1000)
    with Isolated(LIBRARY, "multiplying", np.multiply, images, 2) as held:
        np.testing.assert_array_equal(held.call("adding", np.add, images), 3 * images)


def test_exceptions_are_raised_in_the_caller(tools: ModuleType) -> None:
    with Isolated(LIBRARY, "nothing", list) as held:
        with pytest.raises(WrongMachine) as caught:
            held.call("refusing", tools.refuse, False)
        assert (caught.value.message, caught.value.hint) == ("not here", "elsewhere")
        with pytest.raises(UnknownName) as unknown:
            held.call("refusing", tools.refuse, True)
        assert (unknown.value.name, unknown.value.hint) == ("onx", "did you mean onnx?")
        with pytest.raises(IndexError, match="list index out of range") as index:
            held.call("reading", list.__getitem__, 7)
        assert "served.py" in str(index.value.__cause__), "the traceback in the process"
        assert held.call("reading", len) == 0, "the process is still running"


@pytest.mark.parametrize("exception", ["json", "odd"])
def test_exceptions_of_the_library_become_check_failed(tools: ModuleType, exception: str) -> None:
    with Isolated(LIBRARY, "nothing", str, "{") as held, pytest.raises(CheckFailed) as caught:
        held.call("reading it", json.loads if exception == "json" else tools.odd)
    kind, words = {"json": ("JSONDecodeError", "Expecting property name"), "odd": ("Odd", "odd")}[exception]
    assert caught.value.message.startswith(f"Lib 1.0 failed while reading it: {kind}: {words}")
    assert caught.value.hint == "another --attention"


@pytest.mark.parametrize(
    ("make", "argument", "how", "hint"),
    [
        (
            signal.raise_signal,
            signal.SIGSEGV,
            "was ended by signal 11 (SIGSEGV)",
            "another --attention; this is probably a bug",
        ),
        (signal.raise_signal, signal.SIGKILL, "was ended by signal 9 (SIGKILL)", "a smaller batch size"),
        (signal.raise_signal, signal.SIGILL, "was ended by signal 4 (SIGILL)", "install a build for this one"),
        (sys.exit, 3, "ended with exit code 3", "another --attention"),
        (os._exit, 0, "ended with exit code 0", "another --attention"),
    ],
)
def test_a_crash_is_reported(make: Callable[[int], object], argument: int, how: str, hint: str) -> None:
    with pytest.raises(LibraryDied) as caught:
        Isolated(LIBRARY, "compiling x.xml", make, argument)
    assert caught.value.message == f"Lib 1.0 {how} while compiling x.xml"
    assert caught.value.exit_code == 1
    assert hint in caught.value.hint


def test_the_last_output_is_shown_and_everything_is_cleaned_up(
    tools: ModuleType, life: Life, capfd: pytest.CaptureFixture[str]
) -> None:
    with Isolated(LIBRARY, "asking", tempfile.gettempdir) as held:
        folder = Path(held.call("asking", str))
        assert folder.is_dir()
        with pytest.raises(LibraryDied) as caught:
            held.call("dying", tools.die, life.path)
        assert life.is_over(), "child processes have ended too"
        with pytest.raises(LibraryDied):
            held.call("dying again", str)
    assert caught.value.message.splitlines()[:2] == [
        "Lib 1.0 was ended by signal 6 (SIGABRT) while dying",
        "on stdout",
    ]
    assert "last words" in caught.value.message.splitlines()
    assert not folder.exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pidfds", [True, False])
def test_a_fork_that_holds_the_connection_does_not_hide_a_crash(
    tools: ModuleType, life: Life, pidfds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pidfds:
        monkeypatch.delattr("os.pidfd_open", raising=False)
    with Isolated(LIBRARY, "nothing", list) as held, pytest.raises(LibraryDied, match="SIGSEGV"):
        held.call("forking", tools.fork_and_die, life.path)
    assert life.is_over(), "the fork was killed before it wrote"


def test_leaving_the_block_ends_child_processes(tools: ModuleType, life: Life) -> None:
    with Isolated(LIBRARY, "nothing", list) as held:
        held.call("starting", tools.start_slow, life.path)
    assert life.is_over(), "the child was killed before it wrote"


def test_child_processes_do_not_inherit_the_connection(tools: ModuleType) -> None:
    with Isolated(LIBRARY, "nothing", list) as held:
        assert held.call("asking", tools.inherited) == []


def test_progress_is_forwarded(tools: ModuleType) -> None:
    updates: list[tuple[int, int, str]] = []
    with Isolated(LIBRARY, "nothing", list) as held:
        answer = held.call("working", tools.work, progress=lambda *step: updates.append(step))
    assert (answer, updates) == ("done", [(1, 2, "half"), (2, 2, "")])


def test_an_interrupt_ends_the_process_and_its_children(tools: ModuleType, life: Life) -> None:
    def interrupted(done: int, total: int, message: str = "") -> None:
        raise KeyboardInterrupt

    with Isolated(LIBRARY, "asking", tempfile.gettempdir) as held:
        folder = Path(held.call("asking", str))
        with pytest.raises(KeyboardInterrupt):
            held.call("starting", tools.start, life.path, progress=interrupted)
        assert life.is_over()
    assert not folder.exists()


PARENT = """
import os, signal, sys, tempfile
from toolkit.isolated import NativeLibrary, Isolated

print("run once", flush=True)
held = Isolated(NativeLibrary("Lib"), "opening", open, sys.argv[1], "w")
held.call("writing", print, tempfile.gettempdir())
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_its_parent_and_does_not_rerun_the_script(life: Life, tmp_path: Path) -> None:
    """The parent is a script without `if __name__ == "__main__"` that is killed."""
    script, temporary = tmp_path / "script.py", tmp_path / "temporary"
    script.write_text(PARENT)
    temporary.mkdir()
    here = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, script, life.path]
    ended = subprocess.run(command, env=here, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGKILL, "run once\n", "")
    assert life.is_over()
    assert list(temporary.iterdir()) == []


def test_a_fork_of_the_caller_does_not_keep_the_process_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data loader workers are forks of the caller and inherit its open connections."""
    monkeypatch.setattr(isolated, "END_SECONDS", None)
    held = Isolated(LIBRARY, "nothing", list)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[held._link.fileno()]) as fork:
        held.close()
        assert held._process.returncode == 0, "it ended without being killed"
        fork.communicate()


def test_files_in_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "multiprocessing", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    with Isolated(LIBRARY, "making a list", np.zeros, 3) as held:
        assert held.call("adding", np.sum) == 0


def test_the_library_name_includes_its_version() -> None:
    assert NativeLibrary.installed("NumPy", ("no-such-package", "numpy"), "so") == NativeLibrary(
        f"NumPy {np.__version__}", "so"
    )
    assert NativeLibrary.installed("Lib", ("no-such-package",)) == NativeLibrary("Lib")


def test_descriptions_of_exit_codes() -> None:
    assert exit_description(-signal.SIGTERM) == "was ended by signal 15 (SIGTERM)"
    assert exit_description(-40) == "was ended by signal 40"
    assert last_lines("\33[1mbold\33[0m\n \n\rover\b\n" + "line\n" * 11) == ["over\\x08", *["line"] * 11]
