"""Checks of an exported file before a runtime loads it."""

from __future__ import annotations

from pathlib import Path

from toolkit import hashing, records
from toolkit.errors import BadInput, WeightsError
from toolkit.records import Artifact


def read_artifact(folder: Path, runtime: str, *targets: str) -> Artifact:
    """The record in `folder`, which the host has validated, after checking its target and the hashes of its files.

    Raises BadInput for another kind of folder or another target, WeightsError for missing or changed files.
    """
    if not (folder / "artifact.json").exists():
        raise BadInput(f"{folder} contains no artifact.json, so {runtime} cannot run it", "export the model first")
    artifact = records.load(Artifact, folder / "artifact.json", validated=True)
    if artifact.target not in targets:
        raise BadInput(f"{folder} contains a file for {artifact.target}; {runtime} runs {' and '.join(targets)} files")
    for name, sha256 in {artifact.file: artifact.sha256, **artifact.extra_files}.items():
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name} does not exist, but artifact.json lists it", _EXPORT_AGAIN)
        if hashing.sha256(folder / name) != sha256:
            raise WeightsError(f"{folder / name} does not match its hash in artifact.json", _EXPORT_AGAIN)
    return artifact


_EXPORT_AGAIN = "export the model again"
