"""Results appear whole or not at all."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from toolkit import runfolder
from toolkit.errors import RecipeError, RunFolderError, StorageError
from toolkit.runfolder import RunFolder, full_disk_reported, opened


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def write(folder: RunFolder, result: str, text: str, **inputs: str) -> None:
    with folder.writing(result, inputs) as out:
        (out / "content").write_text(text)


def content(folder: RunFolder, result: str) -> str:
    return (folder.path / result / "content").read_text()


def end_with(error: BaseException, context: AbstractContextManager[Any], work: Callable[[Any], object]) -> None:
    with context as entered:
        work(entered)
        raise error


def hidden(folder: RunFolder) -> list[str]:
    return [path.name for path in folder.path.rglob(".*") if path.name not in (".lock", ".work")]


@pytest.mark.parametrize("result", ["dense", "bench/torch-local"])
def test_a_result_replaces_the_one_before_and_knows_its_inputs(folder: RunFolder, result: str) -> None:
    assert folder.changed(result, {"seed": "1"}) == ["missing"]
    write(folder, result, "old", seed="1", data="a")
    assert folder.changed(result, {"seed": "1", "data": "a"}) == []
    assert folder.changed(result, {"seed": "2", "model": "b"}) == ["data", "model", "seed"]
    write(folder, result, "new", seed="2")
    assert content(folder, result) == "new"
    assert hidden(folder) == []


@pytest.mark.parametrize("result", ["dense", "bench/torch-local"])
def test_an_error_names_the_result_and_not_the_folder_that_is_gone(folder: RunFolder, result: str) -> None:
    def refuse(out: Path) -> None:
        raise StorageError(f"cannot write {out / 'content'}", f"while opening {out.name}, in {out}")

    with pytest.raises(StorageError) as caught, folder.writing(result, {}) as out:
        refuse(out)
    final = folder.path / result
    assert caught.value.message == f"cannot write {final / 'content'}"
    assert caught.value.hint == f"while opening {final.name}, in {final}"

    def forbid(out: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(out / "content"))

    with pytest.raises(StorageError) as caught, folder.writing(result, {}) as out:
        forbid(out)
    assert caught.value.message == f"{final / 'content'}: Permission denied"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_previous_result(folder: RunFolder, error: type[BaseException]) -> None:
    write(folder, "dense", "old")
    with pytest.raises(error):
        end_with(error("why"), folder.writing("dense", {}), lambda out: (out / "content").write_text("half"))
    assert content(folder, "dense") == "old"
    assert hidden(folder) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from toolkit.runfolder import opened
rename, left = Path.rename, [int(sys.argv[3])]
def dying(self, target):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return rename(self, target)
Path.rename = dying
with opened(Path(sys.argv[1])) as folder, folder.writing(sys.argv[2], {}) as out:
    (out / "content").write_text("new")
"""


@pytest.mark.parametrize("result", ["dense", "artifacts/onnx-fp32", "bench/torch-local"])
@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_at_any_rename_leaves_the_previous_result(folder: RunFolder, result: str, renames: int) -> None:
    write(folder, result, "old")
    command = [sys.executable, "-c", KILLED, str(folder.path), result, str(renames)]
    assert subprocess.run(command, check=False).returncode == -9
    assert (folder.path / result).exists() == (renames == 0)
    with opened(folder.path):
        pass
    assert content(folder, result) == "old"
    assert hidden(folder) == []


def test_a_kill_while_the_last_file_is_written_does_not_lock_the_run(folder: RunFolder) -> None:
    write(folder, "dense", "old")
    draft = folder.path / ".dense.new"
    draft.mkdir()
    (draft / "stage.json").write_text('{"sche')
    with opened(folder.path):
        assert content(folder, "dense") == "old"
    assert hidden(folder) == []


def test_recover_keeps_the_newer_of_two(folder: RunFolder) -> None:
    write(folder, "dense", "new")
    (folder.path / ".dense.old").mkdir()
    folder.recover()
    assert content(folder, "dense") == "new"
    assert hidden(folder) == []


def test_unfinished_work_is_found_again_and_lost_only_when_the_result_is_whole(folder: RunFolder) -> None:
    (folder.scratch("dense", {"seed": "1"}) / "checkpoint").touch()
    other = folder.scratch("dense", {"seed": "2"})
    finetuned = folder.scratch("finetuned", {})
    longer = folder.scratch("dense-ink", {})
    assert not list(other.iterdir())
    assert (folder.scratch("dense", {"seed": "1"}) / "checkpoint").exists()
    folder.clear_scratch("dense")
    assert {*(folder.path / ".work").iterdir()} == {finetuned, longer}


def test_a_file_is_replaced_as_a_whole(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("below/page.html", "old")

    def refuse(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        folder.write_text("below/page.html", "new")
    assert (folder.path / "below" / "page.html").read_text() == "old"
    assert hidden(folder) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EFBIG, "the disk is full"),
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_a_disk_that_refuses_is_reported(number: int, message: str) -> None:
    with pytest.raises(StorageError, match=message), full_disk_reported(Path("run")):
        raise OSError(number, "the system's words")


def test_other_system_errors_are_not_hidden() -> None:
    with pytest.raises(IsADirectoryError), full_disk_reported(Path("run")):
        raise IsADirectoryError(errno.EISDIR, "is a directory")


def test_one_process_at_a_time(folder: RunFolder) -> None:
    with opened(folder.path), pytest.raises(RunFolderError, match="another toolkit command"), opened(folder.path):
        pass
    assert folder.path.is_dir(), "who comes second must not clear what the first has made"
    with opened(folder.path):
        pass


def test_who_loses_the_race_for_a_new_folder_does_not_remove_it(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(folder.path):
        monkeypatch.setattr(Path, "exists", lambda self: self != folder.path)
        with pytest.raises(RunFolderError), opened(folder.path):
            pass
        assert folder.path.is_dir()


def test_bad_input_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError), opened(tmp_path / "runs" / "deep" / "new"):
        raise RecipeError("bad")
    assert list(tmp_path.iterdir()) == []


def test_bad_input_leaves_parents_that_others_use(tmp_path: Path) -> None:
    other = tmp_path / "runs" / "other"
    with pytest.raises(RecipeError):
        end_with(RecipeError("bad"), opened(tmp_path / "runs" / "new"), lambda _: other.mkdir())
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


@pytest.mark.parametrize("error", [StorageError("full"), KeyboardInterrupt()])
def test_what_can_be_resumed_keeps_the_new_folder(folder: RunFolder, error: BaseException) -> None:
    with pytest.raises(type(error)):
        end_with(error, opened(folder.path), lambda run: run.scratch("dense", {}))
    assert (folder.path / ".work").is_dir()


def test_log_is_a_line_per_event(folder: RunFolder) -> None:
    folder.path.mkdir()
    folder.log("made", result="dense")
    folder.log("made", result="pruned")
    lines = (folder.path / "log.jsonl").read_text().splitlines()
    assert ['"result": "dense"' in lines[0], '"result": "pruned"' in lines[1]] == [True, True]


def test_a_result_of_another_tool_is_an_error(folder: RunFolder) -> None:
    (folder.path / "dense").mkdir(parents=True)
    with pytest.raises(RunFolderError, match="another version"):
        folder.changed("dense", {})
    assert runfolder.STAGE_FILE not in {path.name for path in folder.path.rglob("*")}
