"""Run folders: results are written atomically.

Each result is a folder (`dense`, `pruned`, `artifacts/onnx-fp32`, ...) that is written under a temporary name and
renamed when complete, with a `stage.json` that holds the hashes of its inputs. A result with equal hashes is up to
date. A kill, a full disk or an error leaves the previous result untouched. `.work` holds scratch state for resuming.
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
    errors_naming,
)
from toolkit.records import StageRecord

STAGE_FILE = "stage.json"
SENTINEL_FILES = (".lock", "recipe.yaml")
"""A non-empty folder is a run folder if it holds a result or one of these files."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Kind = TypeVar("Kind")


class RunFolder:
    """The results of one run, in the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, result: str, file: str, kind: type[Kind]) -> Kind:
        """A record of a finished result."""
        return records.load(kind, self.path / result / file)

    def stage(self, result: str) -> StageRecord | None:
        """The record of how a result was made; None if it does not exist.

        Raises RunFolderError for folders that this version of the toolkit did not write.
        """
        folder = self.path / result
        if not folder.exists():
            return None
        try:
            return records.load(StageRecord, folder / STAGE_FILE)
        except RecordError as error:
            raise RunFolderError(
                f"{folder} was written by another version of the toolkit, or not by it: {error.message}",
                ", or ".join(filter(None, (error.hint, "use another run folder (--run DIR)"))),
            ) from error

    def changed(self, result: str, inputs: Mapping[str, str]) -> list[str]:
        """Names of the inputs that differ from those of the result; ["missing"] if there is no result."""
        stage = self.stage(result)
        if stage is None:
            return ["missing"]
        return sorted(name for name in {*inputs, *stage.inputs} if inputs.get(name) != stage.inputs.get(name))

    @contextmanager
    def writing(self, result: str, inputs: Mapping[str, str]) -> Iterator[Path]:
        """A new folder to fill; it replaces the result when the block ends without an error."""
        final, draft = self.path / result, self._sibling(result, "new")
        started = time.monotonic()
        with errors_naming(final, draft), full_disk_reported(self.path):
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
        """Write a single file atomically."""
        final, draft = self.path / name, self._sibling(name, "new")
        with errors_naming(final, draft), full_disk_reported(self.path):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_text(text, encoding="utf-8")
                draft.replace(final)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return final

    def scratch(self, name: str, inputs: Mapping[str, str]) -> Path:
        """A folder for scratch state of a result with these inputs, kept until `clear_scratch`."""
        folder = self.path / ".work" / f"{name}-{hashing.digest(dict(inputs))[:16]}"
        with full_disk_reported(self.path):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_scratch(self, name: str) -> None:
        """Delete the scratch state of a result, of these and of other inputs."""
        for folder in (self.path / ".work").glob(f"{name}-{'[0-9a-f]' * 16}"):
            shutil.rmtree(folder)

    def log(self, event: str, **details: str | float) -> None:
        """Append an event to log.jsonl."""
        entry = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "event": event, **details}
        with full_disk_reported(self.path), (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _sibling(self, result: str, suffix: str) -> Path:
        final = self.path / result
        return final.with_name(f".{final.name}.{suffix}")

    def _replace(self, draft: Path, final: Path, result: str) -> None:
        old = self._sibling(result, "old")
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        draft.rename(final)
        shutil.rmtree(old, ignore_errors=True)

    def recover(self) -> None:
        """Finish or undo replacements that were interrupted, and delete unfinished folders."""
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
    """The run folder at `path`, created if needed and locked for this process.

    A new run folder is deleted again if the command ends with bad input. Raises RunFolderError for folders that are in
    use, or that this version of the toolkit did not write.
    """
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is not a folder", "choose another run folder (--run DIR)")
    results = [*path.glob(f"[!.]*/{STAGE_FILE}"), *path.glob(f"[!.]*/[!.]*/{STAGE_FILE}")]
    ours = results or any((path / name).exists() for name in SENTINEL_FILES)
    if path.exists() and any(path.iterdir()) and not ours:
        raise RunFolderError(
            f"{path} holds other files and is not a run folder", "choose another run folder (--run DIR)"
        )
    folder = RunFolder(path)
    for file in results:
        folder.stage(str(file.parent.relative_to(path)))
    created = [folder for folder in (path, *path.parents) if not folder.exists()]
    with _locked(path):
        folder.recover()
        try:
            yield folder
        except StorageError:  # the run resumes once there is disk space
            raise
        except (BadInput, DeviceUnreachable, MissingDependency):
            if created and not any(path.glob(f"[!.]*/{STAGE_FILE}")):
                _remove(created)
            raise


def _remove(created: Sequence[Path]) -> None:
    """Delete a new run folder, and the parents that were created for it if they are empty."""
    shutil.rmtree(created[0])
    with suppress(OSError):
        for parent in created[1:]:
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
            raise RunFolderError(f"another toolkit command is using {path}", "wait until it has ended") from None
        yield


@contextmanager
def full_disk_reported(path: Path) -> Iterator[None]:
    """Raise StorageError for a full disk or missing permissions."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageError(
                f"the disk is full: {path} ({error.strerror})",
                "free disk space and run the command again: finished stages are kept and the rest resumes",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(f"{error.filename or path}: {os.strerror(error.errno)}") from error
        raise
