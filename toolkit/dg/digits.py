"""The built-in data: scikit-learn's handwritten digits in four styles, so that nothing need be downloaded.

The 1,797 digits (test part of Alpaydin and Kaynak, 1998) are drawn by `styles`, which takes seconds, and kept in the
user's cache folder: $VIT_TOOLKIT_CACHE, or vit-toolkit in $XDG_CACHE_HOME or ~/.cache. A digit's four pictures are one
group, so that a digit seen in training in one style is not evaluated in another.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toolkit.dg import styles
from toolkit.dg.image import Domain, Image, Pixels
from toolkit.dg.styles import SIZE, STYLES

LOG = logging.getLogger(__name__)
FILE = "digits.bin"
DIGEST_BYTES = 32


@dataclass(frozen=True)
class _Drawn:
    labels: npt.NDArray[np.uint8]
    """[n]"""
    pictures: Pixels
    """[style, n, SIZE, SIZE, 3], styles by their names"""

    @classmethod
    def from_bytes(cls, content: bytes) -> _Drawn:
        count = len(content) // (1 + len(STYLES) * SIZE * SIZE * 3)
        values = np.frombuffer(content, np.uint8)
        return cls(values[:count], values[count:].reshape(len(STYLES), count, SIZE, SIZE, 3))

    def to_bytes(self) -> bytes:
        return self.labels.tobytes() + self.pictures.tobytes()


def draw_digits() -> tuple[tuple[str, ...], tuple[Domain, ...]]:
    """Ten classes and four domains; each domain holds every digit once."""
    drawn = _kept() or _draw()
    labels = [int(label) for label in drawn.labels]
    domains = tuple(
        Domain(
            style,
            tuple(
                Image(name=f"{style}/{label}/{index:04d}", group=f"{index:04d}", label=label, source=picture)
                for index, (label, picture) in enumerate(zip(labels, pictures, strict=True))
            ),
        )
        for style, pictures in zip(sorted(STYLES), drawn.pictures, strict=True)
    )
    return tuple(str(label) for label in sorted(set(labels))), domains


def cache_folder() -> Path:
    """Where this user's caches are; RuntimeError for a user without a home."""
    if chosen := os.environ.get("VIT_TOOLKIT_CACHE"):
        return Path(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "vit-toolkit"


def _draw() -> _Drawn:
    """Draw the digits, and keep the pictures where they can be kept."""
    from sklearn.datasets import load_digits  # takes a second to import, and only this data set needs it

    digits = load_digits()
    drawn = _Drawn(digits.target.astype(np.uint8), styles.draw_all(digits.images / 16.0))
    _keep(drawn)
    return drawn


def _kept() -> _Drawn | None:
    """The pictures in the cache; None where there are none, or others than would be drawn now, or damaged ones."""
    try:
        content = (cache_folder() / FILE).read_bytes()
    except (OSError, RuntimeError):
        return None
    digest, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return _Drawn.from_bytes(content) if digest == _digest(content) else None


def _keep(drawn: _Drawn) -> None:
    """Write the pictures to the cache, as a whole or not at all; without a cache they are drawn every time."""
    content = drawn.to_bytes()
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{FILE}.{os.getpid()}"
        try:
            draft.write_bytes(_digest(content) + content)
            draft.replace(folder / FILE)
        finally:
            draft.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        LOG.info("the built-in images are drawn again by every command: %s", error)


def _digest(content: bytes) -> bytes:
    """Hash of pictures and of what they were drawn by: equal only for whole pictures of this very drawing code."""
    digest = hashlib.sha256(resources.files(styles.__package__).joinpath("styles.py").read_bytes())
    for library in ("numpy", "scipy", "scikit-learn"):
        digest.update(metadata.version(library).encode())
    digest.update(content)
    return digest.digest()
