"""Images that cannot be read: found before anything is learned, and named with the reason.

Finding them reads every file once. Keep what was found, if it `lasts`, with `Domains.files()` of the data set it was
found in, and give it to `without_broken` next time.
"""

from __future__ import annotations

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.characters import listed, printable
from toolkit.dg import picture
from toolkit.dg.domains import Domains
from toolkit.dg.image import Image
from toolkit.dg.left_out import LeftOut, by_reason
from toolkit.dg.unreadable import Unreadable, may_pass
from toolkit.errors import DataError
from toolkit.progress import Progress, silent
from toolkit.records import SCHEMA

LOG = logging.getLogger(__name__)
THREADS = 8
"""Reading waits for the disk, and decoding releases Python's lock: more threads than cores do no harm."""


@dataclass(frozen=True)
class ImageCheck:
    """What was found when every image file of a data set was decoded once; kept as a record."""

    unreadable: dict[str, str]
    """Name of an image, and why it cannot be read."""
    remarks: dict[str, int]
    """What was done to pictures that are not plain RGB, and to how many."""
    schema: int = SCHEMA

    @property
    def lasts(self) -> bool:
        """Whether it stays true while the files stay as they are; permissions, networks and memory may change alone."""
        return not any(may_pass(reason) for reason in self.unreadable.values())


def find_broken(domains: Domains, report: Progress = silent) -> ImageCheck:
    """Which files cannot be decoded to their end, and why; every file is read."""
    images = [image for domain in domains.domains for image in domain.images if isinstance(image.source, Path)]
    unreadable: dict[str, str] = {}
    remarks: Counter[str] = Counter()
    pool = ThreadPoolExecutor(THREADS)
    with picture.unwarned():
        try:
            for done, (image, found) in enumerate(zip(images, pool.map(_tried, images), strict=True), start=1):
                if isinstance(found, str):
                    unreadable[image.name] = found
                else:
                    remarks.update(found)
                report(done, len(images))
        finally:
            pool.shutdown(cancel_futures=True)
    return ImageCheck(dict(sorted(unreadable.items())), dict(sorted(remarks.items())))


def without_broken(domains: Domains, found: ImageCheck, skip: bool) -> Domains:
    """The data set without the images that cannot be read. Raises DataError naming these, and all else that its folder
    lacks or that cannot be opened, unless `skip` is set."""
    broken = [LeftOut(name, reason) for name, reason in found.unreadable.items()]
    faults = [each for each in (*domains.left_out, *broken) if each.fault]
    for each in faults:
        LOG.info("%s: %s", printable(each.name), each.reason)
    if faults and not skip:
        why = [f"{len(names)} {reason}: {listed(names)}" for reason, names in by_reason(faults).items()]
        raise DataError(
            "\n".join(["not all images can be used:", *why]),
            "mend or remove them (--verbose names all), or leave them out with --skip-broken",
        )
    return replace(domains.without(broken) if broken else domains, remarks=found.remarks)


def _tried(image: Image) -> str | tuple[str, ...]:
    """Why a file cannot be read, or what is remarked of the picture."""
    assert isinstance(image.source, Path)
    try:
        return picture.read(image.source, image.background).remarks
    except Unreadable as error:
        return str(error)
