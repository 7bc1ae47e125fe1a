"""A run folder: results that appear whole or not at all.

Each result is a folder (`dense`, `pruned`, `artifacts/onnx-fp32`, ...) that is written under another name and renamed
when it is complete, with a `stage.json` that holds the hashes of its inputs. Equal hashes: the result is up to date. A
kill, a full disk or an error leaves the previous result as it was. `.work` holds what only resuming needs.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from toolkit import __version__, hashing, records
from toolkit.errors import (
    BadInput,
    DeviceUnreachable,
    MissingDependency,
    RecordError,
    RunFolderError,
    StorageError,
    speaking_of,
)
from toolkit.records import StageRecord

STAGE_FILE = "stage.json"
MARKS = (".lock", "recipe.yaml")
"""A folder that holds something is a run folder if it holds a result or one of these."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Kind = TypeVar("Kind")


class RunFolder:
    """The results of one run, below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, result: str, file: str, kind: type[Kind]) -> Kind:
        """A record of a finished result."""
        return records.load(kind, self.path / result / file)

    def stage(self, result: str) -> StageRecord | None:
        """How a result was made; None if it is not there. Other people's folders and other versions' are an error."""
        folder = self.path / result
        if not folder.exists():
            return None
        try:
            return records.load(StageRecord, folder / STAGE_FILE)
        except RecordError as error:
            raise RunFolderError(
                f"{folder} was written by another version of the toolkit, or not by it: {error.message}",
                "use another run folder (--run DIR), or remove this one",
            ) from error

    def changed(self, result: str, inputs: Mapping[str, str]) -> list[str]:
        """Names of the inputs that are not those the result was made from; ["missing"] if there is no result."""
        stage = self.stage(result)
        if stage is None:
            return ["missing"]
        return sorted(name for name in {*inputs, *stage.inputs} if inputs.get(name) != stage.inputs.get(name))

    @contextmanager
    def writing(self, result: str, inputs: Mapping[str, str]) -> Iterator[Path]:
        """A new folder to fill, which takes the result's place when the block ends well."""
        final, draft = self.path / result, self._beside(result, "new")
        started = time.monotonic()
        with speaking_of(final, draft), full_disk_reported(self.path):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            try:
                yield draft
                stage = StageRecord(
                    stage=result,
                    toolkit=__version__,
                    inputs=dict(inputs),
                    seconds=time.monotonic() - started,
                    finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                )
                records.save(stage, draft / STAGE_FILE)
                self._replace(draft, final, result)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise

    def write_text(self, name: str, text: str) -> Path:
        """A single file that is replaced as a whole."""
        final, draft = self.path / name, self._beside(name, "new")
        with speaking_of(final, draft), full_disk_reported(self.path):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_text(text, encoding="utf-8")
                draft.replace(final)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return final

    def work(self, name: str, inputs: Mapping[str, str]) -> Path:
        """A folder for the unfinished work on these very inputs, kept until `end_work`."""
        folder = self.path / ".work" / f"{name}-{hashing.digest(dict(inputs))[:16]}"
        with full_disk_reported(self.path):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def end_work(self, name: str) -> None:
        """The result is whole: all unfinished work on it is thrown away, on these inputs and on others."""
        for folder in (self.path / ".work").glob(f"{name}-*"):
            shutil.rmtree(folder)

    def log(self, event: str, **details: str | float) -> None:
        """One line in log.jsonl."""
        entry = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "event": event, **details}
        with full_disk_reported(self.path), (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _beside(self, result: str, suffix: str) -> Path:
        final = self.path / result
        return final.with_name(f".{final.name}.{suffix}")

    def _replace(self, draft: Path, final: Path, result: str) -> None:
        old = self._beside(result, "old")
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        draft.rename(final)
        shutil.rmtree(old, ignore_errors=True)

    def recover(self) -> None:
        """Undo a replacement that was killed between its two renames, and clear unfinished folders."""
        for old in [*self.path.glob(".*.old"), *self.path.glob("[!.]*/.*.old")]:
            final = old.with_name(old.name[1:].removesuffix(".old"))
            if final.exists():
                shutil.rmtree(old)
            else:
                old.rename(final)
        for draft in [*self.path.glob(".*.new"), *self.path.glob("[!.]*/.*.new")]:
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


@contextmanager
def opened(path: Path) -> Iterator[RunFolder]:
    """The run folder at `path`, made if needed, for one process at a time.

    Bad input given to a new run leaves nothing behind. RunFolderError for a folder of another version, or in use.
    """
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is not a folder", "choose another run folder (--run DIR)")
    results = [*path.glob(f"[!.]*/{STAGE_FILE}"), *path.glob(f"[!.]*/[!.]*/{STAGE_FILE}")]
    ours = results or any((path / mark).exists() for mark in MARKS)
    if path.exists() and any(path.iterdir()) and not ours:
        raise RunFolderError(f"{path} holds other files and is no run folder", "choose another run folder (--run DIR)")
    folder = RunFolder(path)
    for file in results:
        folder.stage(str(file.parent.relative_to(path)))
    made = [each for each in (path, *path.parents) if not each.exists()]
    with _locked(path):
        folder.recover()
        try:
            yield folder
        except StorageError:  # what was begun goes on when there is room
            raise
        except (BadInput, DeviceUnreachable, MissingDependency):
            if made and not any(path.glob(f"[!.]*/{STAGE_FILE}")):
                _remove(made)
            raise


def _remove(made: Sequence[Path]) -> None:
    """A run folder and those of its parents that were made for it and hold nothing else."""
    shutil.rmtree(made[0])
    with suppress(OSError):
        for parent in made[1:]:
            parent.rmdir()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with full_disk_reported(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(f"another toolkit command is working in {path}", "wait for it to end") from None
        yield


@contextmanager
def full_disk_reported(path: Path) -> Iterator[None]:
    """A full disk or a folder without permission becomes an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageError(
                f"the disk is full: {path} ({error.strerror})",
                "make room and run the command again; finished stages are kept and the rest resumes",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(f"{error.filename or path}: {os.strerror(error.errno)}") from error
        raise
