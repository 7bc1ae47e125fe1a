"""The built-in dataset: scikit-learn's handwritten digits in four styles, available without a download.

The 1,797 digits (test split of Alpaydin and Kaynak, 1998) are drawn by `styles`, which takes seconds, and cached in
$VIT_TOOLKIT_CACHE, or vit-toolkit in $XDG_CACHE_HOME or ~/.cache. The four images of a digit are one group, so that a
digit trained on in one style is not evaluated in another.
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
class _Digits:
    labels: npt.NDArray[np.uint8]
    """[n]"""
    images: Pixels
    """[style, n, SIZE, SIZE, 3], styles sorted by name"""

    @classmethod
    def from_bytes(cls, content: bytes) -> _Digits:
        count = len(content) // (1 + len(STYLES) * SIZE * SIZE * 3)
        values = np.frombuffer(content, np.uint8)
        return cls(values[:count], values[count:].reshape(len(STYLES), count, SIZE, SIZE, 3))

    def to_bytes(self) -> bytes:
        return self.labels.tobytes() + self.images.tobytes()


def draw_digits() -> tuple[tuple[str, ...], tuple[Domain, ...]]:
    """The ten classes and the four domains; each domain holds every digit once."""
    digits = _from_cache() or _draw()
    labels = [int(label) for label in digits.labels]
    domains = tuple(
        Domain(
            style,
            tuple(
                Image(name=f"{style}/{label}/{index:04d}", group=f"{index:04d}", label=label, source=pixels)
                for index, (label, pixels) in enumerate(zip(labels, images, strict=True))
            ),
        )
        for style, images in zip(sorted(STYLES), digits.images, strict=True)
    )
    return tuple(str(label) for label in sorted(set(labels))), domains


def cache_folder() -> Path:
    """The user's cache folder. Raises RuntimeError for a user without a home directory."""
    if folder := os.environ.get("VIT_TOOLKIT_CACHE"):
        return Path(folder)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "vit-toolkit"


def _draw() -> _Digits:
    """Draw the digits and cache them if possible."""
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    source = load_digits()
    digits = _Digits(source.target.astype(np.uint8), styles.draw_all(source.images / 16.0))
    _to_cache(digits)
    return digits


def _from_cache() -> _Digits | None:
    """The cached digits; None if there are none, or they are damaged or were drawn by other code."""
    try:
        content = (cache_folder() / FILE).read_bytes()
    except (OSError, RuntimeError):
        return None
    digest, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return _Digits.from_bytes(content) if digest == _digest(content) else None


def _to_cache(digits: _Digits) -> None:
    """Write the digits to the cache atomically; without a cache they are drawn every time."""
    content = digits.to_bytes()
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
        LOG.info("cannot cache the built-in images, so every command draws them again: %s", error)


def _digest(content: bytes) -> bytes:
    """Hash of the content, the drawing code and the library versions."""
    digest = hashlib.sha256(resources.files(styles.__package__).joinpath("styles.py").read_bytes())
    for library in ("numpy", "scipy", "scikit-learn"):
        digest.update(metadata.version(library).encode())
    digest.update(content)
    return digest.digest()
