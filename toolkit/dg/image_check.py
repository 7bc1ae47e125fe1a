"""Check of a dataset's image files: every file is decoded once.

Content hash and result are stored with path, size and time of change, so that later commands open only new and changed
files. A dataset that is copied or mounted at another path has new paths but equal hashes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.dg import decoding
from toolkit.dg.domains import Domains
from toolkit.dg.image import Image, file_hash
from toolkit.dg.unreadable import Unreadable, is_transient
from toolkit.progress import Progress, silent

THREADS = 8
"""Reading waits for the disk and decoding releases the GIL, so oversubscription is harmless."""
SETTLED_NS = 100_000_000
"""Minimum age of a file whose result is kept: a younger one can change again within the resolution of time stamps."""


@dataclass(frozen=True)
class CheckedFile:
    """Result of decoding an image file."""

    size: int
    """Bytes."""
    changed_ns: int
    """Time of the last change (ctime) in nanoseconds; 0 for a result that only holds for one command."""
    sha256: str
    unreadable: str
    """Reason why it cannot be read; empty if it can."""
    remarks: tuple[str, ...]
    """Conversions of an image that is not plain 8-bit RGB."""


@dataclass(frozen=True)
class CheckedImages:
    """Results of decoding image files; stored as a record."""

    conversion: str
    """Version of the decoder, and the background colour; results of another conversion do not count."""
    files: dict[str, CheckedFile]
    """Results by absolute path."""
    schema: int = 1

    def by_name(self, domains: Domains) -> dict[str, CheckedFile]:
        """Results of all image files of a dataset, by sorted image name."""
        return {image.name: self.files[_path(image)] for image in sorted(_files(domains), key=lambda image: image.name)}


def empty_check(background: str) -> CheckedImages:
    """No results yet, for images composited on this background colour."""
    return CheckedImages(f"{decoding.DECODER_VERSION}, {background}", {})


def unchecked(domains: Domains, check: CheckedImages) -> tuple[Image, ...]:
    """Images whose file is not in `check`, or has changed since."""
    return unchecked_images(_files(domains), check)


def unchecked_images(files: Iterable[Image], check: CheckedImages) -> tuple[Image, ...]:
    """Those of these image files that are not in `check`, or have changed since."""
    return tuple(image for image in files if not _is_unchanged(image, check))


def result_of(image: Image, check: CheckedImages) -> CheckedFile:
    """The result of an image file that has been checked."""
    return check.files[_path(image)]


def check_images(images: Sequence[Image], check: CheckedImages, progress: Progress = silent) -> CheckedImages:
    """`check` with these images, whose files are read and decoded completely."""
    files = dict(check.files)
    pool = ThreadPoolExecutor(THREADS)
    with decoding.without_warnings():
        try:
            for done, (image, file) in enumerate(zip(images, pool.map(_check, images), strict=True), start=1):
                files[_path(image)] = file
                progress(done, len(images))
        finally:
            pool.shutdown(cancel_futures=True)
    return replace(check, files=files)


def _check(image: Image) -> CheckedFile:
    assert isinstance(image.source, Path)
    started_ns = time.time_ns()
    try:
        status = image.source.stat()
        size, changed_ns = status.st_size, status.st_ctime_ns
    except OSError:  # decoding reports the reason
        size, changed_ns = 0, 0
    unreadable = ""
    remarks: tuple[str, ...] = ()
    try:
        remarks = decoding.decode(image.source, image.background).remarks
    except Unreadable as error:
        unreadable = str(error)
    holds = not is_transient(unreadable) and changed_ns < started_ns - SETTLED_NS
    return CheckedFile(size, changed_ns if holds else 0, file_hash(image.source), unreadable, remarks)


def _is_unchanged(image: Image, check: CheckedImages) -> bool:
    assert isinstance(image.source, Path)
    file = check.files.get(_path(image))
    try:
        status = image.source.stat()
    except OSError:
        return False
    return file is not None and (file.size, file.changed_ns) == (status.st_size, status.st_ctime_ns)


def _files(domains: Domains) -> Iterator[Image]:
    """Images that are files; built-in images are arrays."""
    return (image for domain in domains.domains for image in domain.images if isinstance(image.source, Path))


def _path(image: Image) -> str:
    assert isinstance(image.source, Path)
    return str(image.source.absolute())
