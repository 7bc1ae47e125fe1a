"""Validation split by the rank of a hash instead of random sampling.

The split does not depend on the machine or on a random number generator, and changes little when images are added or
removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from toolkit.dg.image import Image


def validation_groups(images: Sequence[Image], fraction: float, seed: int) -> frozenset[str]:
    """Groups of one domain's images that are used for validation.

    Of each class, the `fraction` of its groups with the lowest sha256(seed, group): at least one, but never all. A
    class with a single group is trained on, and has no validation images in this domain.
    """
    by_label: dict[int, set[str]] = {}
    for image in images:
        by_label.setdefault(image.label, set()).add(image.group)
    selected: set[str] = set()
    for groups in by_label.values():
        count = min(max(1, round(fraction * len(groups))), len(groups) - 1)
        selected.update(sorted(groups, key=lambda group: _rank(seed, group))[:count])
    return frozenset(selected)


def _rank(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogateescape")).digest()
