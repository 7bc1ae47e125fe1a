"""Any runtime's session in a process of its own: when it dies, that is an error and no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toolkit import records
from toolkit.bench.runtimes import Session, runtime
from toolkit.export import target
from toolkit.isolated import Isolated
from toolkit.records import Artifact


def opened(folder: Path, name: str, threads: int) -> Session:
    """What the runtime of that name makes of a folder: a model's in this process, an exported file's in its own.

    Raises what the runtime raises, and LibraryDied.
    """
    if not (folder / "artifact.json").exists():
        return runtime(name).open(folder, threads)
    return IsolatedSession(folder, name, threads)


class IsolatedSession(Session):
    """An exported file that is run where it can do no harm; see `Session`."""

    def __init__(self, folder: Path, name: str, threads: int) -> None:
        self._file = folder.name
        made = records.load(Artifact, folder / "artifact.json")
        guest = target(made.target).guest("export the file with other settings")
        self._there = Isolated(guest, f"opening {self._file}", _open, folder, name, threads)

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        return self._there.call(f"running {self._file}", _run, images)

    def close(self) -> None:
        self._there.close()


def _open(folder: Path, name: str, threads: int) -> Session:
    return runtime(name).open(folder, threads)


def _run(session: Session, images: np.ndarray) -> np.ndarray:
    return session.run(images)
