"""Sessions in a subprocess: a runtime that crashes raises an error instead of ending the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toolkit import records
from toolkit.bench.identity import Identity
from toolkit.bench.runtimes import Session, runtime
from toolkit.export import target
from toolkit.isolated import Isolated
from toolkit.records import Artifact


def open_session(folder: Path, name: str, threads: int) -> Session:
    """Open a model folder in this process, or an exported file in a subprocess, with the runtime called `name`.

    Raises the errors of `Runtime.open`, and LibraryDied if the subprocess crashes.
    """
    if not (folder / "artifact.json").exists():
        return runtime(name).open(folder, threads)
    return IsolatedSession(folder, name, threads)


class IsolatedSession(Session):
    """Session of an exported file that runs in a subprocess."""

    def __init__(self, folder: Path, name: str, threads: int) -> None:
        self._file = folder.name
        artifact = records.load(Artifact, folder / "artifact.json")
        self.spec = Identity.of_artifact(artifact)
        library = target(artifact.target).native_library("export the file with other settings")
        self._process = Isolated(library, f"opening {self._file}", _open, folder, name, threads)

    def run(self, images: np.ndarray) -> np.ndarray:
        """images: [batch, 3, S, S] -> logits: [batch, classes]."""
        return self._process.call(f"running {self._file}", _run, images)

    def close(self) -> None:
        self._process.close()


def _open(folder: Path, name: str, threads: int) -> Session:
    return runtime(name).open(folder, threads)


def _run(session: Session, images: np.ndarray) -> np.ndarray:
    return session.run(images)
