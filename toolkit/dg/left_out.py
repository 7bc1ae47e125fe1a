"""Files and folders of a dataset that are not used, with the reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from toolkit.characters import listed


@dataclass(frozen=True)
class LeftOut:
    """A file, folder or class that is not used."""

    name: str
    """Path like an image's name; of a folder, with a trailing "/"."""
    reason: str
    is_error: bool = True
    """Whether it was probably meant to be used: an error unless data.skip_broken is set."""


def by_reason(left_out: Iterable[LeftOut]) -> dict[str, tuple[str, ...]]:
    """Names by reason, errors first."""
    names_by_reason: dict[str, list[str]] = {}
    for entry in sorted(left_out, key=lambda entry: (not entry.is_error, entry.reason, entry.name)):
        names_by_reason.setdefault(entry.reason, []).append(entry.name)
    return {reason: tuple(names) for reason, names in names_by_reason.items()}


def descriptions(left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """One line per reason: count, reason and names."""
    return [f"{len(names)} left out, {reason}: {listed(names)}" for reason, names in left_out.items()]
