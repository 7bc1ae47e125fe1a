"""Identity and input format of an exported file or model folder that is measured or compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolkit import records
from toolkit.errors import BadInput
from toolkit.pixels import InputFormat
from toolkit.records import Artifact, ModelInfo


@dataclass(frozen=True)
class Identity:
    """Contents of a folder according to its record; a runtime verifies the hash when it opens the folder."""

    sha256: str
    """Hash of the file that is executed, or the identity of the model in the folder."""
    model: ModelInfo
    """Classes and image size."""
    input: InputFormat

    @classmethod
    def of_model(cls, info: ModelInfo) -> Identity:
        """A model folder: float32 images in batches of any size."""
        return cls(info.identity, info, InputFormat.of(info.preprocessing))

    @classmethod
    def of_artifact(cls, artifact: Artifact) -> Identity:
        """An exported file."""
        images, info = artifact.inputs[0], artifact.model
        return cls(artifact.sha256, info, InputFormat.of(info.preprocessing, images.dtype, artifact.batch))

    def check_batch(self, size: int) -> None:
        """Raise BadInput for an unsupported batch size."""
        sizes = self.input.batch
        if sizes.fixed not in (None, size):
            raise BadInput(
                f"exported with a fixed batch size of {sizes.fixed}, got {size}", f"use --batch-size {sizes.fixed}"
            )
        if size < sizes.least or (sizes.most is not None and size > sizes.most):
            raise BadInput(
                f"the engine supports batch sizes {sizes.least} to {sizes.most}, not {size}",
                "export it with another --batch-size",
            )


def identify(folder: Path) -> Identity:
    """Read `artifact.json` or `model.json`; raises BadInput if the folder has neither."""
    if (folder / "artifact.json").exists():
        return Identity.of_artifact(records.load(Artifact, folder / "artifact.json"))
    if (folder / "model.json").exists():
        return Identity.of_model(records.load(ModelInfo, folder / "model.json"))
    raise BadInput(
        f"{folder} contains neither artifact.json nor model.json", "use a folder that a stage of the toolkit wrote"
    )
