"""What every runtime checks before it loads an exported file."""

from __future__ import annotations

from pathlib import Path

from toolkit import hashing, records
from toolkit.errors import BadInput, WeightsError
from toolkit.records import Artifact


def artifact_in(folder: Path, runtime: str, *targets: str) -> Artifact:
    """The record in `folder`, of one of these targets, whose files are the ones that were written.

    Raises BadInput for a folder of another kind, WeightsError for files that are missing or changed.
    """
    if not (folder / "artifact.json").exists():
        raise BadInput(f"{folder} holds no artifact.json, so {runtime} cannot run it", "export the model first")
    artifact = records.load(Artifact, folder / "artifact.json")
    if artifact.target not in targets:
        raise BadInput(f"{folder} holds a file for {artifact.target}; {runtime} runs {' and '.join(targets)} files")
    for name, sha256 in {artifact.file: artifact.sha256, **artifact.also}.items():
        if not (folder / name).is_file():
            raise WeightsError(f"{folder / name} does not exist, although artifact.json names it", _AGAIN)
        if hashing.sha256(folder / name) != sha256:
            raise WeightsError(
                f"{folder / name} is not the file that artifact.json describes (its hash differs)", _AGAIN
            )
    return artifact


_AGAIN = "export the model again"
