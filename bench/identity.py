"""Name what is measured or compared in one way, whether it is an exported file or a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolkit import records
from toolkit.errors import BadInput
from toolkit.records import Artifact, ModelInfo


@dataclass(frozen=True)
class Identity:
    """What a folder holds, as its record says; a runtime checks the hash when it opens the folder."""

    sha256: str
    """Hash of the file that runs: the artifact's, or the model folder's weights."""
    model: ModelInfo
    """The model inside: its classes, input size and normalisation."""


def identify(folder: Path) -> Identity:
    """Read `artifact.json` or `model.json`; BadInput when the folder holds neither."""
    if (folder / "artifact.json").exists():
        artifact = records.load(Artifact, folder / "artifact.json")
        return Identity(artifact.sha256, artifact.model)
    if (folder / "model.json").exists():
        model = records.load(ModelInfo, folder / "model.json")
        return Identity(model.weights_sha256, model)
    raise BadInput(f"{folder} holds neither an artifact.json nor a model.json", "give a folder that a stage wrote")
