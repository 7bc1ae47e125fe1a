"""Objects in a process of their own: what comes back, what is said when it dies, and what it leaves behind: nothing."""

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

GUEST = NativeLibrary("Lib 1.0", "another --attention")
TOOLS = """
import os, signal, subprocess, sys, time
from toolkit.errors import UnknownName, WrongMachine

def tell(held, report):
    report(1, 2, "half")
    report(2, 2)
    return "told"

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
    return [each for each in range(3, 100) if is_inherited(each)]

def is_inherited(each):
    try:
        return os.get_inheritable(each)
    except OSError:
        return False

def start(held, path, report):
    subprocess.Popen(["sleep", "60"], stdout=open(path, "w"))
    report(0, 1)

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
    """A module that the other process finds too."""
    (tmp_path / "isolated_tools.py").write_text(TOOLS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "isolated_tools", raising=False)
    return importlib.import_module("isolated_tools")


@dataclass(frozen=True)
class Life:
    """A FIFO that processes hold open."""

    path: Path
    reader: int

    def is_over(self) -> bool:
        """Wait for the end of all that hold it open."""
        os.set_blocking(self.reader, True)
        return os.read(self.reader, 1) == b""


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    yield Life(tmp_path / "fifo", reader)
    os.close(reader)


def test_an_object_stays_there_and_is_called() -> None:
    with Isolated(GUEST, "making a list", list, "ab") as held:
        assert held.call("adding", list.append, "c") is None
        assert held.call("reading", list) == ["a", "b", "c"]
        assert held.call("asking", operator.attrgetter("__class__")) is list
    with pytest.raises(RuntimeError, match="closed"):
        held.call("reading", list)
    with Isolated(GUEST, "asking", os.getpid) as held:
        assert held.call("asking", abs) != os.getpid()


def test_large_arrays_go_both_ways() -> None:
    images = np.arange(3_000_000, dtype=np.float32).reshape(3, 1000, 1000)
    with Isolated(GUEST, "multiplying", np.multiply, images, 2) as held:
        np.testing.assert_array_equal(held.call("adding", np.add, images), 3 * images)


def test_what_is_raised_there_is_raised_here(tools: ModuleType) -> None:
    with Isolated(GUEST, "nothing", list) as held:
        with pytest.raises(WrongMachine) as caught:
            held.call("refusing", tools.refuse, False)
        assert (caught.value.message, caught.value.hint) == ("not here", "elsewhere")
        with pytest.raises(UnknownName) as unknown:
            held.call("refusing", tools.refuse, True)
        assert (unknown.value.name, unknown.value.hint) == ("onx", "did you mean onnx?")
        with pytest.raises(IndexError, match="list index out of range") as index:
            held.call("reading", list.__getitem__, 7)
        assert "served.py" in str(index.value.__cause__), "where it was raised"
        assert held.call("reading", len) == 0, "it goes on"


@pytest.mark.parametrize("made", ["json", "odd"])
def test_errors_that_only_the_library_has_are_put_in_words(tools: ModuleType, made: str) -> None:
    with Isolated(GUEST, "nothing", str, "{") as held, pytest.raises(CheckFailed) as caught:
        held.call("reading it", json.loads if made == "json" else tools.odd)
    kind, words = {"json": ("JSONDecodeError", "Expecting property name"), "odd": ("Odd", "odd")}[made]
    assert caught.value.message.startswith(f"Lib 1.0 failed while reading it: {kind}: {words}")
    assert caught.value.hint == "another --attention"


@pytest.mark.parametrize(
    ("make", "argument", "how", "hint"),
    [
        (signal.raise_signal, signal.SIGSEGV, "was ended by signal 11 (SIGSEGV)", "another --attention; the fault is"),
        (signal.raise_signal, signal.SIGKILL, "was ended by signal 9 (SIGKILL)", "a smaller batch size"),
        (signal.raise_signal, signal.SIGILL, "was ended by signal 4 (SIGILL)", "install a build for this one"),
        (sys.exit, 3, "ended with exit code 3", "another --attention"),
        (os._exit, 0, "ended with exit code 0", "another --attention"),
    ],
)
def test_a_death_is_named(make: Callable[[int], object], argument: int, how: str, hint: str) -> None:
    with pytest.raises(LibraryDied) as caught:
        Isolated(GUEST, "compiling x.xml", make, argument)
    assert caught.value.message == f"Lib 1.0 {how} while compiling x.xml"
    assert caught.value.exit_code == 1
    assert hint in caught.value.hint


def test_last_words_are_shown_and_nothing_is_left(
    tools: ModuleType, life: Life, capfd: pytest.CaptureFixture[str]
) -> None:
    with Isolated(GUEST, "asking", tempfile.gettempdir) as held:
        folder = Path(held.call("asking", str))
        assert folder.is_dir()
        with pytest.raises(LibraryDied) as caught:
            held.call("dying", tools.die, life.path)
        assert life.is_over(), "of what it had started too"
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
def test_a_fork_that_holds_the_connection_hides_no_death(
    tools: ModuleType, life: Life, pidfds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pidfds:
        monkeypatch.delattr("os.pidfd_open", raising=False)
    with Isolated(GUEST, "nothing", list) as held, pytest.raises(LibraryDied, match="SIGSEGV"):
        held.call("forking", tools.fork_and_die, life.path)
    assert life.is_over(), "the fork was ended before it had slept"


def test_the_end_of_the_block_ends_what_it_has_started(tools: ModuleType, life: Life) -> None:
    with Isolated(GUEST, "nothing", list) as held:
        held.call("starting", tools.start_slow, life.path)
    assert life.is_over(), "it was ended before it had slept"


def test_what_it_starts_cannot_hold_the_connection(tools: ModuleType) -> None:
    with Isolated(GUEST, "nothing", list) as held:
        assert held.call("asking", tools.inherited) == []


def test_progress_is_told_while_it_goes_on(tools: ModuleType) -> None:
    told: list[tuple[int, int, str]] = []
    with Isolated(GUEST, "nothing", list) as held:
        answer = held.call("telling", tools.tell, report=lambda *step: told.append(step))
    assert (answer, told) == ("told", [(1, 2, "half"), (2, 2, "")])


def test_an_interrupt_ends_it_and_what_it_has_started(tools: ModuleType, life: Life) -> None:
    def interrupted(done: int, total: int, message: str = "") -> None:
        raise KeyboardInterrupt

    with Isolated(GUEST, "asking", tempfile.gettempdir) as held:
        folder = Path(held.call("asking", str))
        with pytest.raises(KeyboardInterrupt):
            held.call("starting", tools.start, life.path, report=interrupted)
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


def test_it_outlives_nobody_and_runs_no_program_twice(life: Life, tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"` that is killed."""
    script, temporary = tmp_path / "script.py", tmp_path / "temporary"
    script.write_text(PARENT)
    temporary.mkdir()
    here = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, script, life.path]
    ended = subprocess.run(command, env=here, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGKILL, "run once\n", "")
    assert life.is_over()
    assert list(temporary.iterdir()) == []


def test_another_process_that_holds_the_connection_does_not_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that load images are forks of this one, and hold all that it has open."""
    monkeypatch.setattr(isolated, "END_SECONDS", None)
    held = Isolated(GUEST, "nothing", list)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[held._link.fileno()]) as fork:
        held.close()
        assert held._process.returncode == 0, "it was not ended by force"
        fork.communicate()


def test_files_in_the_current_folder_are_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "multiprocessing", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    with Isolated(GUEST, "making a list", np.zeros, 3) as held:
        assert held.call("adding", np.sum) == 0


def test_a_library_with_its_version() -> None:
    assert NativeLibrary.installed("NumPy", ("no-such-package", "numpy"), "so") == NativeLibrary(
        f"NumPy {np.__version__}", "so"
    )
    assert NativeLibrary.installed("Lib", ("no-such-package",)) == NativeLibrary("Lib")


def test_how_processes_end() -> None:
    assert exit_description(-signal.SIGTERM) == "was ended by signal 15 (SIGTERM)"
    assert exit_description(-40) == "was ended by signal 40"
    assert last_lines("\33[1mbold\33[0m\n \n\rover\b\n" + "line\n" * 11) == ["over\\x08", *["line"] * 11]
