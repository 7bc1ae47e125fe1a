"""Unlabelled images: all pictures of a folder, at any depth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from toolkit import recipe
from toolkit.dg.broken import refuse
from toolkit.dg.domains import Domains
from toolkit.dg.image import NO_LABEL, Image
from toolkit.dg.image_check import CheckedImages, check_images, empty_check, result_of, unchecked_images
from toolkit.dg.left_out import LeftOut, by_reason, descriptions
from toolkit.dg.split import validation_groups
from toolkit.dg.tree import list_tree
from toolkit.errors import DataError
from toolkit.progress import Progress, silent

NAME = "pictures"
"""Their name where others have that of their domain."""


@dataclass(frozen=True)
class Pictures:
    """Unlabelled images. On their own they are split as a domain is: the model is compared with its teacher on those
    for validation."""

    images: tuple[Image, ...]
    validation_share: float = 0.2
    seed: int = 0
    left_out: tuple[LeftOut, ...] = ()

    def training_images(self) -> dict[str, tuple[Image, ...]]:
        """Images to train on."""
        return {NAME: tuple(image for image in self.images if image.group not in self._validation)}

    def selection_images(self) -> dict[str, tuple[Image, ...]]:
        """Images for validation."""
        return {NAME: tuple(image for image in self.images if image.group in self._validation)}

    def fingerprint(self) -> str:
        """Hash of the names and stamps of all images, and of the split."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        content = [(image.name, image.stamp) for image in self.images], self.validation_share, self.seed
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @cached_property
    def _validation(self) -> frozenset[str]:
        return validation_groups(self.images, self.validation_share, self.seed)


def checked_pictures(
    folder: str,
    data: recipe.Data,
    seed: int,
    known: CheckedImages | None = None,
    progress: Callable[[], AbstractContextManager[Progress]] = lambda: nullcontext(silent),
) -> tuple[Pictures, CheckedImages]:
    """The readable pictures of a folder, and `known` with the results of decoding them.

    `data` has the background of transparent pictures and says whether unreadable files are skipped. Raises DataError
    for a folder without pictures, and for unreadable files unless they are skipped.
    """
    root = Path(folder).expanduser()
    tree = list_tree(root)
    names = [file.as_posix() for file in tree.images]
    images = [Image(name, name, NO_LABEL, root / name, data.background) for name in names]
    check = empty_check(data.background) if known is None else known
    if new := unchecked_images(images, check):
        with progress() as report:
            check = check_images(new, check, report)
    results = {image.name: result_of(image, check) for image in images}
    broken = [LeftOut(name, result.unreadable) for name, result in results.items() if result.unreadable]
    refuse((*tree.left_out, *broken), data.skip_broken)
    readable = tuple(
        Image(name, name, NO_LABEL, root / name, data.background, results[name].sha256)
        for name in names
        if not results[name].unreadable
    )
    if len(readable) < 2:
        details = "".join(f"; {line}" for line in descriptions(by_reason((*tree.left_out, *broken))))
        raise DataError(f"{folder} has {len(readable)} usable pictures{details}", "give a folder with pictures")
    return Pictures(readable, data.validation_share, seed, (*tree.left_out, *broken)), check


def check_apart(pictures: Pictures, domains: Domains) -> None:
    """Raise DataError if some pictures are images of the held-out domain, which nothing is trained on."""
    held_out = {image.stamp for domain in domains.domains if domain.name == domains.held_out for image in domain.images}
    if common := [image.name for image in pictures.images if image.stamp in held_out]:
        raise DataError(
            f"{len(common)} of the pictures without labels are images of the held-out domain {domains.held_out}: "
            f"{common[0]}" + (", ..." if len(common) > 1 else ""),
            "leave them out: nothing is trained on the held-out domain",
        )
