"""Unreadable images: detected before training, and reported with the reason.

The check reads every file once. A `reusable` check can be stored under the `Domains.files_fingerprint()` of its dataset
and passed to `without_broken` later.
"""

from __future__ import annotations

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.characters import listed, printable
from toolkit.dg import decoding
from toolkit.dg.domains import Domains
from toolkit.dg.image import Image
from toolkit.dg.left_out import LeftOut, by_reason
from toolkit.dg.unreadable import Unreadable, is_transient
from toolkit.errors import DataError
from toolkit.progress import Progress, silent

LOG = logging.getLogger(__name__)
THREADS = 8
"""Reading waits for the disk and decoding releases the GIL, so oversubscription is harmless."""


@dataclass(frozen=True)
class ImageCheck:
    """Result of decoding every image file of a dataset once; stored as a record."""

    unreadable: dict[str, str]
    """Reason by image name."""
    remarks: dict[str, int]
    """Number of images by conversion, of those that are not plain 8-bit RGB."""
    schema: int = 1

    @property
    def reusable(self) -> bool:
        """Whether the result holds until files change; errors of permissions, networks and memory may be transient."""
        return not any(is_transient(reason) for reason in self.unreadable.values())


def find_broken(domains: Domains, progress: Progress = silent) -> ImageCheck:
    """Decode every image file completely, and collect those that fail."""
    images = [image for domain in domains.domains for image in domain.images if isinstance(image.source, Path)]
    unreadable: dict[str, str] = {}
    remarks: Counter[str] = Counter()
    pool = ThreadPoolExecutor(THREADS)
    with decoding.without_warnings():
        try:
            for done, (image, result) in enumerate(zip(images, pool.map(_check, images), strict=True), start=1):
                if isinstance(result, str):
                    unreadable[image.name] = result
                else:
                    remarks.update(result)
                progress(done, len(images))
        finally:
            pool.shutdown(cancel_futures=True)
    return ImageCheck(dict(sorted(unreadable.items())), dict(sorted(remarks.items())))


def without_broken(domains: Domains, check: ImageCheck, skip: bool) -> Domains:
    """The dataset without unreadable images.

    Raises DataError with these and all other errors in its folder (`LeftOut.is_error`), unless `skip` is set.
    """
    broken = [LeftOut(name, reason) for name, reason in check.unreadable.items()]
    errors = [entry for entry in (*domains.left_out, *broken) if entry.is_error]
    for entry in errors:
        LOG.info("%s: %s", printable(entry.name), entry.reason)
    if errors and not skip:
        lines = [f"{len(names)} {reason}: {listed(names)}" for reason, names in by_reason(errors).items()]
        raise DataError(
            "\n".join(["not all images can be used:", *lines]),
            "repair or delete them (--verbose lists all), or skip them with --skip-broken",
        )
    return replace(domains.without(broken) if broken else domains, remarks=check.remarks)


def _check(image: Image) -> str | tuple[str, ...]:
    """The reason why a file cannot be read, or the remarks on the image."""
    assert isinstance(image.source, Path)
    try:
        return decoding.decode(image.source, image.background).remarks
    except Unreadable as error:
        return str(error)
