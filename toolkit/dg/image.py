"""Images, with or without labels, and domains.

Images of one `group` are never split between training and evaluation (as in scikit-learn's GroupKFold). A photograph is
a group by itself; the four drawings of one handwritten digit are one group across four domains.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from toolkit import hashing
from toolkit.dg import decoding
from toolkit.dg.unreadable import Unreadable
from toolkit.errors import DataError

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""[height, width, 3], RGB."""


NO_LABEL = -1
"""Label of an image of unknown class."""


@dataclass(frozen=True)
class Image:
    """An image that is decoded on demand."""

    name: str
    """Unique in the dataset; domain/class/file for a file."""
    group: str
    """Identifies the object shown; equal for all images of it."""
    label: int
    """Class index; `NO_LABEL` if it is unknown."""
    source: Path | Pixels = field(repr=False, compare=False)
    background: str = "white"
    """Background colour for transparent images."""
    sha256: str | None = None
    """Hash of the file, if it is known already."""

    @property
    def stamp(self) -> str:
        """Identifies the decoded content: hash of the file, with background and decoder version; or hash of the
        pixels."""
        if not isinstance(self.source, Path):
            return hashlib.sha256(self.source.tobytes()).hexdigest()
        return f"{self.sha256 or file_hash(self.source)}, {self.background}, {decoding.DECODER_VERSION}"

    def decode(self) -> Pillow.Image:
        """The image in RGB. Raises DataError for a file that cannot be read."""
        if not isinstance(self.source, Path):
            return Pillow.fromarray(self.source)
        try:
            with decoding.without_warnings():
                return decoding.decode(self.source, self.background).pixels
        except Unreadable as error:
            raise DataError(
                f"{self.name} cannot be read: {error}",
                "it could be read when the images were checked: restore or delete it, and run the command again",
            ) from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file; "unreadable" for one that cannot be opened, which is reported when it is decoded."""
    try:
        return hashing.sha256(path)
    except OSError:
        return "unreadable"


@dataclass(frozen=True)
class Domain:
    """The images of one domain, sorted by name."""

    name: str
    images: tuple[Image, ...] = field(repr=False)


class Dataset(Protocol):
    """Images to train on and to validate with, by domain."""

    def training_images(self) -> dict[str, tuple[Image, ...]]:
        """Images to train on."""
        ...

    def selection_images(self) -> dict[str, tuple[Image, ...]]:
        """Images for validation; either all of them have labels, or none."""
        ...

    def fingerprint(self) -> str:
        """Hash of names, labels and contents of all images, and of the split."""
        ...
