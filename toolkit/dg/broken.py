"""Images that cannot be decoded: found before anything is learned, and named.

Finding them reads every file once. Keep the list with `Domains.fingerprint()` of the data set it was found in, and give
it to `without_broken` next time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from toolkit.dg.domains import Domains
from toolkit.dg.image import Image
from toolkit.errors import DataError
from toolkit.progress import Progress, silent

THREADS = 8
"""Reading waits for the disk, and decoding releases Python's lock: more threads than cores do no harm."""


def find_broken(domains: Domains, report: Progress = silent) -> tuple[str, ...]:
    """Names of the files that cannot be decoded to their end, sorted; every file is read."""
    images = [image for domain in domains.domains for image in domain.images if isinstance(image.source, Path)]
    broken = []
    pool = ThreadPoolExecutor(THREADS)
    try:
        for done, (image, sound) in enumerate(zip(images, pool.map(_is_sound, images), strict=True), start=1):
            if not sound:
                broken.append(image.name)
            report(done, len(images))
    finally:
        pool.shutdown(cancel_futures=True)
    return tuple(sorted(broken))


def without_broken(domains: Domains, broken: tuple[str, ...], skip: bool) -> Domains:
    """The data set without the named images where `skip` is set; else DataError naming them, if there are any."""
    if not broken:
        return domains
    if not skip:
        shown = ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
        raise DataError(
            f"{len(broken)} image{'s' if len(broken) > 1 else ''} cannot be decoded: {shown}",
            "mend or remove them, or leave them out with --skip-broken",
        )
    return domains.without(broken)


def _is_sound(image: Image) -> bool:
    try:
        image.decode()
    except DataError:
        return False
    return True
