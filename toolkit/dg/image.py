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

from toolkit.dg import picture
from toolkit.dg.unreadable import Unreadable
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
    background: str = "white"
    """What it is laid on where it is transparent."""

    @property
    def stamp(self) -> str:
        """Changes when the picture does: size and time of change of the file (reading all files at every command would
        take minutes) and how it is read, or a hash of the pixels."""
        if not isinstance(self.source, Path):
            return hashlib.sha256(self.source.tobytes()).hexdigest()
        try:
            found = self.source.stat()
        except OSError:  # why will be said when it is to be read
            return "not there"
        return f"{found.st_size}, {found.st_mtime_ns}, {self.background}, {picture.READING}"

    def decode(self) -> Pillow.Image:
        """The whole picture in RGB. Raises DataError naming a file that cannot be read, and why."""
        if not isinstance(self.source, Path):
            return Pillow.fromarray(self.source)
        try:
            with picture.unwarned():
                return picture.read(self.source, self.background).pixels
        except Unreadable as error:
            raise DataError(
                f"{self.name} cannot be read: {error}",
                "it could when the images were checked: put it back or remove it, and run the command again",
            ) from error


@dataclass(frozen=True)
class Domain:
    """The images of one domain, sorted by name."""

    name: str
    images: tuple[Image, ...] = field(repr=False)
