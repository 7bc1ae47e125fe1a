"""Exclude unreadable images from a dataset, with reasons, or refuse the dataset."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from toolkit import recipe
from toolkit.characters import listed, printable
from toolkit.dg.domains import Domains, read_domains
from toolkit.dg.image_check import CheckedImages, check_images, empty_check, unchecked
from toolkit.dg.left_out import LeftOut, by_reason
from toolkit.errors import DataError
from toolkit.progress import Progress, silent

LOG = logging.getLogger(__name__)


def checked_domains(
    data: recipe.Data,
    seed: int,
    known: CheckedImages | None = None,
    progress: Callable[[], AbstractContextManager[Progress]] = lambda: nullcontext(silent),
) -> tuple[Domains, CheckedImages]:
    """The dataset without unreadable images, and the results of decoding every image: `known` itself if it has them
    all. `progress` opens a display if there are images to decode.

    Raises DataError as `read_domains` and `without_broken` do.
    """
    check = empty_check(data.background) if known is None else known
    domains = read_domains(data, seed)
    if new := unchecked(domains, check):
        with progress() as report:
            check = check_images(new, check, report)
    return without_broken(domains, check, data.skip_broken), check


def without_broken(domains: Domains, check: CheckedImages, skip: bool) -> Domains:
    """The dataset without unreadable images, and with the hash of every file; `check` contains all images.

    Raises DataError with these and all other errors in its folder (`LeftOut.is_error`), unless `skip` is set.
    """
    files = check.by_name(domains)
    broken = [LeftOut(name, file.unreadable) for name, file in files.items() if file.unreadable]
    refuse((*domains.left_out, *broken), skip)
    remarks = Counter(remark for file in files.values() for remark in file.remarks)
    domains = domains.with_hashes({name: file.sha256 for name, file in files.items()})
    return replace(domains.without(broken) if broken else domains, remarks=dict(sorted(remarks.items())))


def refuse(left_out: Iterable[LeftOut], skip: bool) -> None:
    """Log the errors among files left out (`LeftOut.is_error`), and raise DataError with them unless `skip` is set."""
    errors = [entry for entry in left_out if entry.is_error]
    for entry in errors:
        LOG.info("%s: %s", printable(entry.name), entry.reason)
    if errors and not skip:
        lines = [f"{len(names)} {reason}: {listed(names)}" for reason, names in by_reason(errors).items()]
        raise DataError(
            "\n".join(["not all images can be used:", *lines]),
            "repair or delete them (--verbose lists all), or skip them with --skip-broken",
        )
