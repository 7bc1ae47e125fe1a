"""Which images are kept from training: by the rank of a hash, not by drawing.

Adding or removing an image elsewhere leaves the rest of the split as it was, on every machine and in every version of
a random number generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from toolkit.dg.image import Image


def validation_groups(images: Sequence[Image], share: float, seed: int) -> frozenset[str]:
    """Groups of one domain's images that are kept from training.

    In each class these are the `share` of its groups with the lowest sha256(seed, group): at least one, and never all.
    A class with a single group gives none: it is trained on, and this domain cannot say how well.
    """
    by_label: dict[int, set[str]] = {}
    for image in images:
        by_label.setdefault(image.label, set()).add(image.group)
    kept: set[str] = set()
    for groups in by_label.values():
        count = min(max(1, round(share * len(groups))), len(groups) - 1)
        kept.update(sorted(groups, key=lambda group: _rank(seed, group))[:count])
    return frozenset(kept)


def _rank(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogateescape")).digest()
