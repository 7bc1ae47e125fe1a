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
    dtype: str = "float32"
    """Of the images it takes: "float32", normalised, or "uint8", pixels."""
    batch: int | None = None
    """Images a call, where the file takes no other number."""
    least: int = 1
    """Fewest images a call, where an engine wants more than one."""
    most: int | None = None
    """Most images a call, where an engine has a limit."""

    def check_batch(self, size: int) -> None:
        """BadInput for a number of images a call that the file does not take."""
        if self.batch not in (None, size):
            raise BadInput(f"the file takes {self.batch} images a call, not {size}", f"--batch-size {self.batch}")
        if size < self.least or (self.most is not None and size > self.most):
            raise BadInput(
                f"the engine takes {self.least} to {self.most} images a call, not {size}",
                "export it with another --batch-size",
            )


def identify(folder: Path) -> Identity:
    """Read `artifact.json` or `model.json`; BadInput when the folder holds neither."""
    if (folder / "artifact.json").exists():
        artifact = records.load(Artifact, folder / "artifact.json")
        batch = artifact.inputs[0].shape[0]
        least, most = (artifact.options.get(name) for name in ("least_batch", "largest_batch"))
        return Identity(
            artifact.sha256,
            artifact.model,
            artifact.inputs[0].dtype,
            batch if isinstance(batch, int) else None,
            least if isinstance(least, int) else 1,
            most if isinstance(most, int) else None,
        )
    if (folder / "model.json").exists():
        model = records.load(ModelInfo, folder / "model.json")
        return Identity(model.weights_sha256, model)
    raise BadInput(f"{folder} holds neither an artifact.json nor a model.json", "give a folder that a stage wrote")
