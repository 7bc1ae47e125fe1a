"""Identity and input requirements of what is measured or compared: an exported file or a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolkit import records
from toolkit.errors import BadInput
from toolkit.records import Artifact, ModelInfo


@dataclass(frozen=True)
class Identity:
    """Contents of a folder according to its record; a runtime verifies the hash when it opens the folder."""

    sha256: str
    """Hash of the file that is executed: the artifact, or the weights in the model folder."""
    model: ModelInfo
    """Classes, input size and normalisation."""
    dtype: str = "float32"
    """Input dtype: "float32" for normalised images, "uint8" for raw pixels."""
    fixed_batch: int | None = None
    """The only supported batch size, if it is fixed."""
    min_batch: int = 1
    """Minimum batch size of an engine."""
    max_batch: int | None = None
    """Maximum batch size of an engine; None: unlimited."""

    def check_batch(self, size: int) -> None:
        """Raise BadInput for an unsupported batch size."""
        if self.fixed_batch not in (None, size):
            raise BadInput(
                f"exported with a fixed batch size of {self.fixed_batch}, got {size}",
                f"use --batch-size {self.fixed_batch}",
            )
        if size < self.min_batch or (self.max_batch is not None and size > self.max_batch):
            raise BadInput(
                f"the engine supports batch sizes {self.min_batch} to {self.max_batch}, not {size}",
                "export it with another --batch-size",
            )


def identify(folder: Path, *, validated: bool = False) -> Identity:
    """Read `artifact.json` or `model.json`; raises BadInput if the folder has neither.

    On a device, they are `validated` by the host: see `records.loads`.
    """
    if (folder / "artifact.json").exists():
        artifact = records.load(Artifact, folder / "artifact.json", validated=validated)
        batch = artifact.inputs[0].shape[0]
        smallest, largest = (artifact.options.get(name) for name in ("least_batch", "largest_batch"))
        return Identity(
            artifact.sha256,
            artifact.model,
            artifact.inputs[0].dtype,
            batch if isinstance(batch, int) else None,
            smallest if isinstance(smallest, int) else 1,
            largest if isinstance(largest, int) else None,
        )
    if (folder / "model.json").exists():
        model = records.load(ModelInfo, folder / "model.json", validated=validated)
        return Identity(model.weights_sha256, model)
    raise BadInput(
        f"{folder} contains neither artifact.json nor model.json", "use a folder that a stage of the toolkit wrote"
    )
