"""One labelled image, and one domain of them.

`name` says which file it is, `group` what it shows: images of one group are never split between training and
evaluation. A photograph is its own group; a handwritten digit drawn in four styles is one group in four domains.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from toolkit.errors import DataError

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""[height, width, 3], red, green, blue."""


@dataclass(frozen=True)
class Image:
    """A picture that is not decoded before it is needed."""

    name: str
    """domain/class/file for a file; unique in its data set."""
    group: str
    """What it shows; the same for all images of one thing."""
    label: int
    """Index of its class."""
    source: Path | Pixels = field(repr=False, compare=False)

    @property
    def stamp(self) -> str:
        """Changes when the picture does: size and time of change of the file (reading all files at every command would
        take minutes), or a hash of the pixels."""
        if isinstance(self.source, Path):
            found = self.source.stat()
            return f"{found.st_size}, {found.st_mtime_ns}"
        return hashlib.sha256(self.source.tobytes()).hexdigest()

    def decode(self) -> Pillow.Image:
        """The whole picture in RGB. Raises DataError naming a file that is broken or cut short."""
        if not isinstance(self.source, Path):
            return Pillow.fromarray(self.source)
        try:
            with Pillow.open(self.source) as file:
                picture: Pillow.Image = file.convert("RGB")
                return picture
        except Exception as error:  # decoders of damaged files raise nearly anything: OSError, SyntaxError, ...
            raise DataError(f"{self.name} cannot be decoded: {error}") from error


@dataclass(frozen=True)
class Domain:
    """The images of one domain, sorted by name."""

    name: str
    images: tuple[Image, ...] = field(repr=False)
